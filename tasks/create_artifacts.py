"""create_artifacts: what a run leaves in Prefect for people to look at, and the lineage from source to catalog."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping, Sequence

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from sightflow.schemas.money.words import money
from sightflow.schemas.redaction import redact
from sightflow.schemas.run.plan import Status, not_asked
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.source_pattern import literal_prefix
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.example_pictures import data_url, pictures
from sightflow.tasks.runtime.artifacts.best_effort import artifact_key, best_effort
from sightflow.tasks.runtime.artifacts.examples import Examples, said

_NOT_IN_AN_ASSET = re.compile(r"[\x00-\x20#?&%\"'<>\[\]{}|\\^`]")
_LONGEST_ASSET = 512
_LONGEST_SAID = 300


@task(cache_policy=NO_CACHE, persist_result=False)
def create_artifacts(run_report: RunReport, examples: Examples, spec: EnrichmentSpec) -> None:
    """Leave the report, some objects with what was said of them, what failed, a link to the version, and the lineage;
    and the counts in the log.
    """
    _log(run_report)
    _show_report(run_report)
    if examples.published:
        _show_examples(run_report, examples, spec)
    if run_report.causes:
        _show_causes(run_report)
    if examples.failed:
        _show_failed(run_report, examples)
    if run_report.commits and run_report.catalog_version is not None:  # failures alone make no catalog
        _show_version(run_report)
        _show_lineage(run_report, spec)


@best_effort
def _log(run_report: RunReport) -> None:
    causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(run_report.causes.items()))
    get_run_logger().info(
        "%s%s; cost %s; next: %s",
        run_report.summary,
        f" ({causes})" if causes else "",
        money(run_report.cost_usd),
        redact(shlex.join(run_report.next_command)),
    )


@best_effort
def _show_examples(run_report: RunReport, examples: Examples, spec: EnrichmentSpec) -> None:
    create_markdown_artifact(
        examples_markdown(examples, pictures(examples, spec)),
        key=artifact_key(run_report.catalog, "examples"),
        description="Some of what was published, with its boxes",
    )


@best_effort
def _show_failed(run_report: RunReport, examples: Examples) -> None:
    columns = ("uri", "enrichment", "cause", "stage", "message")
    table = [{column: redact(str(row[column])) for column in columns} for row in examples.failed]
    create_table_artifact(
        table, key=artifact_key(run_report.catalog, "failed"), description="The first items that were quarantined"
    )


@best_effort
def _show_report(run_report: RunReport) -> None:
    create_markdown_artifact(
        markdown(run_report), key=artifact_key(run_report.catalog, "report"), description="What the run did"
    )


@best_effort
def _show_causes(run_report: RunReport) -> None:
    table = [{"cause": str(cause), "items": items} for cause, items in sorted(run_report.causes.items())]
    create_table_artifact(
        table, key=artifact_key(run_report.catalog, "causes"), description="What was quarantined, by cause"
    )


@best_effort
def _show_version(run_report: RunReport) -> None:
    commit = f"{run_report.catalog}/enrichments/_delta_log/{run_report.catalog_version:020d}.json"
    text = f"{run_report.catalog}, version {run_report.catalog_version}"
    create_link_artifact(
        commit, link_text=text, key=artifact_key(run_report.catalog, "version"), description="The catalog"
    )


@best_effort
def _show_lineage(run_report: RunReport, spec: EnrichmentSpec) -> None:
    name = run_report.catalog.rpartition("/")[2]
    catalog = Asset(key=asset_key(run_report.catalog), properties=AssetProperties(name=name, url=None))
    prefixes = map(literal_prefix, spec.source)
    sources: list[str | Asset] = [*sorted(set(map(asset_key, prefixes)))]

    @materialize(catalog, asset_deps=sources, by="sightflow", cache_policy=NO_CACHE, persist_result=False)
    def lineage() -> None:
        catalog.add_metadata(
            {
                "version": run_report.catalog_version,
                "published": run_report.published,
                "quarantined": run_report.quarantined,
            }
        )

    lineage()


def asset_key(uri: str) -> str:
    """A URI as Prefect takes it for an asset: without the characters that it refuses, and at most 512 long."""
    return _NOT_IN_AN_ASSET.sub("-", uri).rstrip("/")[:_LONGEST_ASSET]


def markdown(run_report: RunReport) -> str:
    """The report of a run as Markdown; what came from outside is escaped."""
    seconds = (run_report.finished_at - run_report.started_at).total_seconds()
    submitted, usd = run_report.submitted, money(run_report.submitted_usd)
    by_batch = f"{submitted:,} submitted by batch, about {usd}; " if submitted else ""
    lines = [
        f"# {_text(run_report.catalog)}",
        "",
        f"**{run_report.summary}** in {seconds:,.1f} s; "
        f"cost {money(run_report.cost_usd)}, {money(run_report.estimated_usd)} expected; {by_batch}"
        f"catalog version {run_report.catalog_version}.",
        "",
        "| enrichment | media | new | changed | stale | unchanged | in quarantine | computed | model |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for plan in run_report.plans:
        counts = " | ".join(f"{plan.counts.get(status, 0):,}" for status in Status)
        model = f"{plan.route.systems[0]} ({plan.route.candidates[0].model_id})"
        lines.append(
            f"| {_text(plan.enrichment)} | {plan.media_kind} | {counts} | {plan.to_compute:,} | {_text(model)} |"
        )
    bills = [
        (
            f"{_text(each.enrichment)} ({each.media_kind})",
            f"{each.items:,}",
            f"{each.input_tokens:,}",
            f"{each.output_tokens:,}",
            money(each.cost_usd or each.gpu_usd),
            money(each.estimated_usd),
        )
        for each in run_report.bills
    ]
    lines += _table(("enrichment", "items", "tokens in", "tokens out", "charged", "expected"), bills)
    if run_report.not_asked:
        lines += ["", f"{not_asked(run_report.not_asked)}."]
    causes = sorted((_text(cause), f"{count:,}") for cause, count in run_report.causes.items())
    lines += _table(("cause", "items"), causes)
    lines += ["", *(f"- {_text(each.summary)}" for each in run_report.skipped)] if run_report.skipped else []
    lines += ["", *(f"- upkeep of {_text(table.summary)}" for table in run_report.upkeep)] if run_report.upkeep else []
    wall = sorted(run_report.wall_seconds.items(), key=lambda item: -item[1])
    lines += _table(("of the run", "seconds"), [(kind.replace("_", " "), f"{taken:,.1f}") for kind, taken in wall])
    stages = [
        (stage, f"{t.busy:,.1f}", f"{t.waiting:,.1f}", f"{t.share:.0%}") for stage, t in run_report.stages.items()
    ]
    lines += _table(("stage", "seconds at work", "seconds waiting", "at work"), stages)
    return "\n".join(lines)


def examples_markdown(examples: Examples, pictures: Mapping[str, bytes]) -> str:
    """Objects as Markdown: the picture, if there is one, and each enrichment with what it says."""
    lines: list[str] = []
    for uri, rows in examples.published.items():
        lines += ["", f"### {_text(uri)}"]
        if picture := pictures.get(uri):
            lines += ["", f"![{_text(uri)}]({data_url(picture)})"]
        answers = [(_text(row["enrichment"]), _text(said(row)[:_LONGEST_SAID]), _text(row["model_id"])) for row in rows]
        lines += ["", "| enrichment | result | model |", "| --- | --- | --- |"]
        lines += ["| " + " | ".join(cells) + " |" for cells in answers]
    return "\n".join(lines).strip()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns but the first are numbers; none without rows."""
    if not rows:
        return []
    rule = ["---", *["--:"] * (len(columns) - 1)]
    return ["", *("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))]


def _text(value: str) -> str:
    """Text without keys that means nothing to Markdown or HTML."""
    escaped = html.escape("".join(c if c.isprintable() else " " for c in redact(value)))
    return re.sub(r"([\\`*_\[\]|!~#])", r"\\\1", escaped)
