"""create_artifacts: what a run leaves in Prefect for people to look at, and the lineage from source to catalog."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE

from sightflow.schemas.run.plan import Status
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.runtime.artifacts import artifact_key, costs_nothing

_NOT_IN_AN_ASSET = re.compile(r"[\x00-\x20#?&%\"'<>\[\]{}|\\^`]")
_LONGEST_ASSET = 512
_GLOB = re.compile(r"[*?\[]")


@task(cache_policy=NO_CACHE, persist_result=False)
def create_artifacts(done: RunReport, spec: EnrichmentSpec) -> None:
    """Leave the report, the causes of failures, a link to the version, and the lineage."""
    _show_report(done)
    if done.causes:
        _show_causes(done)
    if done.commits and done.catalog_version is not None:  # failures alone make no catalog
        _show_version(done)
        _show_lineage(done, spec)


@costs_nothing
def _show_report(done: RunReport) -> None:
    create_markdown_artifact(markdown(done), key=artifact_key(done.catalog, "report"), description="What the run did")


@costs_nothing
def _show_causes(done: RunReport) -> None:
    table = [{"cause": str(cause), "items": items} for cause, items in sorted(done.causes.items())]
    create_table_artifact(table, key=artifact_key(done.catalog, "causes"), description="What was quarantined, by cause")


@costs_nothing
def _show_version(done: RunReport) -> None:
    commit = f"{done.catalog}/enrichments/_delta_log/{done.catalog_version:020d}.json"
    text = f"{done.catalog}, version {done.catalog_version}"
    create_link_artifact(commit, link_text=text, key=artifact_key(done.catalog, "version"), description="The catalog")


@costs_nothing
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
