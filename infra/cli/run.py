"""sightflow run: bring the catalog up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from sightflow.infra.cli.plan import Limit, Prefix, Sample, Since, SpecFile, selection, show_notices, show_skipped
from sightflow.infra.cli.screen import console, money, safe, table
from sightflow.schemas.run.plan import RunPlan, not_asked
from sightflow.schemas.run.report import QuarantineExceeded, RunReport
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.spec import EnrichmentSpec


def run(
    spec: SpecFile,
    prefix: Prefix = "",
    since: Since = None,
    sample: Sample = 1.0,
    limit: Limit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run report as JSON, for programs.")] = False,
) -> None:
    """Compute what is missing, validate it and publish it; what is already there is never computed again."""
    from sightflow.schemas.spec_reader import read_spec

    read = read_spec(spec)
    try:
        done = run_watched(read, selection(prefix, since, sample, limit))
    except QuarantineExceeded as error:
        _show(error.report, as_json)
        raise
    _show(done, as_json)


def run_watched(spec: EnrichmentSpec, chosen: Selection = EVERYTHING) -> RunReport:
    """Run the flow with progress on the screen, on the configured Prefect server or on one of our own."""
    from sightflow.infra.cli import BEGAN_AT
    from sightflow.infra.local_run import run_enrich

    with progress() as bar:
        return run_enrich(spec, chosen, bar, BEGAN_AT)


class ProgressBar:
    """Items, rate and time left, told by the publisher."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, failed="", rate="")
        self._failed = 0

    def say(self, what: str) -> None:
        """Name what is going on now."""
        self._bar.update(self._task, description=what)

    def planned(self, run_plan: RunPlan) -> None:
        self._bar.update(
            self._task, description="enriching" if run_plan.to_compute else "nothing to do", total=run_plan.to_compute
        )
        self._bar.reset(self._task, total=run_plan.to_compute)

    def advanced(self, published: int, quarantined: int) -> None:
        self._failed += quarantined
        failed = f"[red]{self._failed:,} failed[/red]" if self._failed else ""
        self._bar.update(self._task, advance=published + quarantined, failed=failed)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, rate=f"{speed:,.1f} items/s" if speed else "")


@contextmanager
def progress() -> Iterator[ProgressBar]:
    """A bar on the screen while the block runs."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield ProgressBar(bar)


def _show(done: RunReport, as_json: bool) -> None:
    if as_json:
        console.print_json(done.model_dump_json())
    else:
        show_report(done)


def show_report(done: RunReport) -> None:
    """Print the summary of a run and the next command to type."""
    seconds = (done.finished_at - done.started_at).total_seconds()
    if not done.commits and not done.submitted:
        console.print(f"nothing to do: {done.unchanged:,} results of {done.objects:,} objects are up to date")
    else:
        rate = f", {(done.published + done.quarantined) / seconds:,.1f} items/s" if seconds else ""
        console.print(
            f"[bold]{done.published:,} published[/bold], {done.quarantined:,} quarantined, "
            f"{done.unchanged:,} unchanged, {done.pruned:,} pruned in {seconds:,.1f} s{rate}; "
            f"cost {money(done.cost_usd)}; catalog version {done.catalog_version}"
        )
    if done.submitted:
        console.print(
            f"[bold]{done.submitted:,} submitted[/bold] by batch; publish them when they are answered with: "
            "sightflow collect SPEC",
            soft_wrap=True,
        )
    show_notices(done.plans)
    show_skipped(done.skipped)
    if done.start.until_first_answers is not None:
        steps = ", ".join(f"{step.replace('_', ' ')} {taken:,.1f}" for step, taken in done.start.steps.items())
        first = f"the first answers came after {done.start.until_first_answers:,.1f}"
        console.print(f"seconds to start: {steps}; {first}", soft_wrap=True)
    if done.bottleneck:
        stages = ", ".join(f"{stage} {time.busy:,.1f}" for stage, time in done.stages.items())
        slowest = f"the bottleneck is {done.bottleneck}, at work {done.stages[done.bottleneck].share:.0%} of the time"
        console.print(f"seconds at work: {stages}; {slowest}", soft_wrap=True)
    if done.causes:
        rows = sorted(((cause, f"{count:,}") for cause, count in done.causes.items()), key=lambda row: row[0])
        console.print(table("quarantined", "cause", "items", rows=rows, right=("items",)))
    if done.not_asked:
        console.print(not_asked(done.not_asked))
    if done.orphaned and not (done.spec and done.spec.policy.prune):
        console.print(
            f"{done.orphaned:,} objects of the catalog are gone from the source; policy.prune: true removes them"
        )
    for tended in done.upkeep:
        console.print(f"upkeep: {safe(tended.summary)}", soft_wrap=True)
    following = f"sightflow quarantine list {done.catalog}" if done.causes else f"sightflow catalog show {done.catalog}"
    console.print(f"next: [bold]{safe(following)}[/bold]", soft_wrap=True)
