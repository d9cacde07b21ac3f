"""sightflow run: bring the catalog up to date."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Self

from sightflow.infra.cli.plan import Limit, Prefix, Sample, Since, SpecFile, selection, show_notices, show_skipped
from sightflow.infra.cli.screen import console, flag, problems, safe, show_next, show_table
from sightflow.schemas.money.words import count_of_tokens, money
from sightflow.schemas.run.plan import RunPlan, not_asked
from sightflow.schemas.run.report import QuarantineExceeded, RunOverBudget, RunReport
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.spec import EnrichmentSpec

if TYPE_CHECKING:
    from rich.progress import Progress


def run(
    spec: SpecFile,
    prefix: Prefix = "",
    since: Since = None,
    sample: Sample = 1.0,
    limit: Limit = None,
    as_json: Annotated[bool, flag("--json", help="Print the run report as JSON, for programs.")] = False,
) -> None:
    """Compute what is missing, validate it and publish it; what is already there is never computed again."""
    from sightflow.schemas.spec_reader import read_spec

    read = read_spec(spec)
    try:
        done = run_watched(read, selection(prefix, since, sample, limit))
    except (QuarantineExceeded, RunOverBudget) as error:
        _show(error.report, as_json)
        raise
    _show(done, as_json)


def run_watched(spec: EnrichmentSpec, chosen: Selection = EVERYTHING) -> RunReport:
    """Run the flow with progress on the screen, on the configured Prefect server or on one of our own."""
    from sightflow.infra.cli import BEGAN_AT
    from sightflow.infra.local_run import run_enrich

    with progress() as bar:
        return run_enrich(spec, chosen, bar, BEGAN_AT)


_LEAST_TOLD = 0.05  # seconds
_IN_WORDS = {"model": "loading models", "server": "starting Prefect"}
_FIRST_LINE_SECONDS = 2.0
_LINE_SECONDS = 10.0


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


class ProgressLines:
    """The same where nobody watches a terminal: a line on stderr after two seconds, and every ten from then on."""

    def __init__(self) -> None:
        self._what, self._total, self._done, self._failed = "starting", 0, 0, 0
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True, name="progress")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, what: str) -> None:
        """Name what is going on now."""
        self._what = what

    def planned(self, run_plan: RunPlan) -> None:
        self._what, self._total, self._began = "enriching", run_plan.to_compute, time.monotonic()

    def advanced(self, published: int, quarantined: int) -> None:
        self._done += published + quarantined
        self._failed += quarantined

    @property
    def line(self) -> str:
        """What is going on, how much of it is done, and how quickly."""
        if not self._total:
            return self._what
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        left = f", {timedelta(seconds=round((self._total - self._done) / rate))} left" if rate else ""
        failed = f", {self._failed:,} failed" if self._failed else ""
        share = f"{self._done:,} of {self._total:,} ({self._done / self._total:.0%})"
        return f"{self._what}: {share}, {rate:,.1f} items/s{left}{failed}"

    def _tell(self) -> None:
        wait = _FIRST_LINE_SECONDS
        while not self._ended.wait(wait):
            problems.print(f"{datetime.now():%H:%M:%S} {safe(self.line)}", soft_wrap=True)
            wait = _LINE_SECONDS


@contextmanager
def progress() -> Iterator[ProgressBar | ProgressLines]:
    """Progress on the screen while the block runs: a bar on a terminal, else lines."""
    if not console.is_terminal:
        with ProgressLines() as lines:
            yield lines
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

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


def bill(done: RunReport) -> str:
    """What a run was charged beside what its plan had expected, e.g. `cost $1.02, $1.00 expected`."""
    expected = f", {money(done.estimated_usd)} expected" if done.estimated_usd != done.cost_usd else ""
    return f"cost {money(done.cost_usd)}{expected}"


def show_bills(done: RunReport) -> None:
    """Print what each enrichment was charged, where any was."""
    charged = [each for each in done.bills if each.cost_usd or each.estimated_usd or each.gpu_usd]
    rows = [
        (
            f"{each.enrichment} ({each.media_kind})",
            f"{each.items:,}",
            each.system,
            count_of_tokens(each.input_tokens),
            count_of_tokens(each.output_tokens),
            money(each.cost_usd or each.gpu_usd),
            money(each.estimated_usd),
        )
        for each in charged
    ]
    if rows:
        numbers = ("items", "in", "out", "charged", "expected")
        columns = ("enrichment", "items", "model", *numbers[1:])
        show_table("tokens in and out, and the bill", *columns, rows=rows, right=numbers)
    if gpu := [each for each in charged if each.gpu_usd]:
        hours = sum(each.busy_seconds for each in gpu) / 3600
        console.print(f"of models here: {hours:,.2f} hours at work, by policy.gpu_hour_usd", soft_wrap=True)


def show_report(done: RunReport) -> None:
    """Print the summary of a run and the next command to type."""
    seconds = (done.finished_at - done.started_at).total_seconds()
    if not done.commits and not done.submitted and not done.over_budget:
        console.print(f"nothing to do: {done.unchanged:,} results of {done.objects:,} objects are up to date")
    else:
        rate = f", {(done.published + done.quarantined) / seconds:,.1f} items/s" if seconds else ""
        console.print(
            f"[bold]{done.summary}[/bold] in {seconds:,.1f} s{rate}; "
            f"{bill(done)}; catalog version {done.catalog_version}",
            soft_wrap=True,
        )
        show_bills(done)
    if done.over_budget:
        console.print(f"[yellow]stopped[/yellow] {safe(done.over_budget)}", soft_wrap=True)
        console.print(f"left: {done.left:,} of {done.planned:,}, about {money(done.left_usd)}; the next run goes on")
    if done.submitted:
        console.print(
            f"[bold]{done.submitted:,} submitted[/bold] by batch, about {money(done.submitted_usd)}; publish them when "
            "they are answered with: sightflow collect SPEC",
            soft_wrap=True,
        )
    show_notices(done.plans)
    show_skipped(done.skipped)
    for line in time_lines(done):
        console.print(line, soft_wrap=True)
    if done.causes:
        rows = sorted(((cause, f"{count:,}") for cause, count in done.causes.items()), key=lambda row: row[0])
        show_table("quarantined", "cause", "items", rows=rows, right=("items",))
    if done.not_asked:
        console.print(not_asked(done.not_asked))
    if done.orphaned and not (done.spec and done.spec.policy.prune):
        console.print(
            f"{done.orphaned:,} objects of the catalog are gone from the source; policy.prune: true removes them"
        )
    for tended in done.upkeep:
        console.print(f"upkeep: {safe(tended.summary)}", soft_wrap=True)
    show_next(*done.next_command)


def time_lines(done: RunReport) -> Iterator[str]:
    """Where the seconds of a run went, each counted once, what took most of them, and when the first answers came."""
    if not done.bottleneck:
        return
    whole = sum(done.wall_seconds.values())
    taken = sorted(done.wall_seconds.items(), key=lambda item: -item[1])
    parts = [f"{_IN_WORDS.get(kind, kind)} {seconds:,.1f}" for kind, seconds in taken if seconds >= _LEAST_TOLD]
    yield f"{whole:,.1f} s in all: {', '.join(parts)}"
    most = _IN_WORDS.get(done.bottleneck, done.bottleneck)
    share = f"the largest part went to {most}, {done.wall_seconds[done.bottleneck] / whole:.0%}"
    first = done.start.until_first_answers
    yield share + (f"; the first answers came after {first:,.1f} s" if first is not None else "")
