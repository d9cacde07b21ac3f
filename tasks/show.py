"""show: what a run leaves in Prefect for people to look at: artifacts, and the lineage from source to catalog.

Nothing that is shown may cost a run: what Prefect does not take is logged and left out.
"""

from __future__ import annotations

import contextvars
import html
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec

from prefect import task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, SettingsContext
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings

from sightflow.schemas.object_uri import split_scheme
from sightflow.schemas.run.plan import RunPlan, Status
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.spec import EnrichmentSpec

P = ParamSpec("P")

_NOT_IN_A_KEY = re.compile(r"[^a-z0-9]+")
_NOT_IN_AN_ASSET = re.compile(r"[\x00-\x20#?&%\"'<>\[\]{}|\\^`]")
_LONGEST_ASSET = 512
_GLOB = re.compile(r"[*?\[]")
_LONGEST_FAREWELL_SECONDS = 2.0


def key_of(catalog: str, what: str) -> str:
    """The key of a catalog's artifact, e.g. `sightflow-shop-catalog-report` for `s3://shop/catalog`."""
    place = _NOT_IN_A_KEY.sub("-", split_scheme(catalog)[1].lower()).strip("-")
    return f"sightflow-{place}-{what}"


def _harmless(show: Callable[P, None]) -> Callable[P, None]:
    """Outside a flow run nothing is shown; within one, what cannot be shown is logged and costs nothing."""

    @wraps(show)
    def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        if FlowRunContext.get() is None:
            return
        try:
            with _few_retries():
                show(*args, **kwargs)
        except Exception as error:
            get_run_logger().warning("not shown in Prefect: %s", type(error).__name__)

    return shown


def _few_retries() -> AbstractContextManager[Any]:
    """Prefect is not asked again and again for a minute, as for what matters.

    A copy of the settings: `temporary_settings` reads them all anew, which takes 26 ms, at each commit too.
    """
    now = get_current_settings()
    client = now.client.model_copy(update={"max_retries": 1})
    context = SettingsContext.get()
    assert context is not None
    return SettingsContext(profile=context.profile, settings=now.model_copy(update={"client": client}))


class ProgressArtifact:
    """The bar in Prefect's UI, which the commits of a run move.

    A thread of its own moves it, to where the run is by then: a server that answers late, or not, holds nobody up.
    """

    def __init__(self, catalog: str) -> None:
        self._key = key_of(catalog, "progress")
        self._total = self._done = 0
        self._moved = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    def planned(self, work: RunPlan) -> None:
        """Begin to show the run, if it has anything to compute."""
        self._total = work.to_compute
        if self._total:
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._follow,), name="progress", daemon=True)
            self._thread.start()

    def advanced(self, published: int, quarantined: int) -> None:
        """Move the bar by so many results."""
        self._done += published + quarantined
        self._moved.set()

    def end(self) -> None:
        """Show where the run has come, and wait for that, but not for long."""
        self._ended = True
        self._moved.set()
        if self._thread is not None:
            self._thread.join(_LONGEST_FAREWELL_SECONDS)

    @_harmless
    def _follow(self) -> None:
        what = f"{self._total:,} results to compute"
        bar: Any = create_progress_artifact(progress=0.0, key=self._key, description=what)
        ended = False
        while not ended:
            self._moved.wait()
            self._moved.clear()
            ended = self._ended
            self._move(bar)

    @_harmless
    def _move(self, bar: Any) -> None:
        update_progress_artifact(bar, min(100.0 * self._done / self._total, 100.0))


@task(cache_policy=NO_CACHE, persist_result=False)
def show(done: RunReport, spec: EnrichmentSpec) -> None:
    """Leave the report, the causes of failures, a link to the version, and the lineage."""
    _show_report(done)
    if done.causes:
        _show_causes(done)
    if done.commits and done.catalog_version is not None:  # failures alone make no catalog
        _show_version(done)
        _show_lineage(done, spec)


@_harmless
def _show_report(done: RunReport) -> None:
    create_markdown_artifact(markdown(done), key=key_of(done.catalog, "report"), description="What the run did")


@_harmless
def _show_causes(done: RunReport) -> None:
    table = [{"cause": str(cause), "items": items} for cause, items in sorted(done.causes.items())]
    create_table_artifact(table, key=key_of(done.catalog, "causes"), description="What was quarantined, by cause")


@_harmless
def _show_version(done: RunReport) -> None:
    commit = f"{done.catalog}/enrichments/_delta_log/{done.catalog_version:020d}.json"
    text = f"{done.catalog}, version {done.catalog_version}"
    create_link_artifact(commit, link_text=text, key=key_of(done.catalog, "version"), description="The catalog")


@_harmless
def _show_lineage(done: RunReport, spec: EnrichmentSpec) -> None:
    name = done.catalog.rpartition("/")[2]
    catalog = Asset(key=asset_key(done.catalog), properties=AssetProperties(name=name, url=None))
    places = {asset_key(_GLOB.split(pattern, maxsplit=1)[0]) for pattern in spec.source}
    sources: list[str | Asset] = [*sorted(places)]

    @materialize(catalog, asset_deps=sources, by="sightflow", cache_policy=NO_CACHE, persist_result=False)
    def lineage() -> None:
        catalog.add_metadata(
            {"version": done.catalog_version, "published": done.published, "quarantined": done.quarantined}
        )

    lineage()


def asset_key(uri: str) -> str:
    """A URI as Prefect takes it for an asset: without the characters that it refuses, and at most 512 long."""
    return _NOT_IN_AN_ASSET.sub("-", uri).rstrip("/")[:_LONGEST_ASSET]


def markdown(done: RunReport) -> str:
    """The report of a run as Markdown; what came from outside is escaped."""
    seconds = (done.finished_at - done.started_at).total_seconds()
    lines = [
        f"# {_text(done.catalog)}",
        "",
        f"**{done.published:,} published**, {done.quarantined:,} quarantined, {done.unchanged:,} unchanged, "
        f"{done.pruned:,} pruned in {seconds:,.1f} s; cost ${done.cost_usd:,.4g}; "
        f"catalog version {done.catalog_version}.",
        "",
        "| enrichment | media | new | changed | stale | unchanged | in quarantine | computed | model |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    counted = (Status.NEW, Status.CHANGED, Status.STALE, Status.UNCHANGED, Status.QUARANTINED)
    for plan in done.plans:
        counts = " | ".join(f"{plan.counts.get(status, 0):,}" for status in counted)
        model = f"{plan.route.systems[0]} ({plan.route.candidates[0].model_id})"
        lines.append(
            f"| {_text(plan.enrichment)} | {plan.media_kind} | {counts} | {plan.to_compute:,} | {_text(model)} |"
        )
    causes = sorted((_text(cause), f"{count:,}") for cause, count in done.causes.items())
    lines += _table(("cause", "items"), causes)
    lines += ["", *(f"- upkeep of {_text(tended.summary)}" for tended in done.upkeep)] if done.upkeep else []
    stages = [(stage, f"{t.busy:,.1f}", f"{t.waiting:,.1f}", f"{t.share:.0%}") for stage, t in done.stages.items()]
    lines += _table(("stage", "seconds at work", "seconds waiting", "at work"), stages)
    if done.bottleneck:
        lines += ["", f"The bottleneck is {done.bottleneck}."]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns but the first are numbers; none without rows."""
    if not rows:
        return []
    rule = ["---", *["--:"] * (len(columns) - 1)]
    return ["", *("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))]


def _text(value: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    escaped = html.escape("".join(c if c.isprintable() else " " for c in value))
    return re.sub(r"([\\`*_\[\]|!~#])", r"\\\1", escaped)
