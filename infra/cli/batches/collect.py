"""sightflow collect: publish what vendors have answered by batch."""

from __future__ import annotations

from typing import Annotated

from sightflow.infra.cli.plan import SpecFile
from sightflow.infra.cli.run import show_report
from sightflow.infra.cli.screen import console, flag, safe
from sightflow.schemas.run.report import QuarantineExceeded, RunReport


def collect(
    spec: SpecFile,
    as_json: Annotated[bool, flag("--json", help="Print the run report as JSON, for programs.")] = False,
) -> None:
    """Publish the results of the batches that have ended, from whichever machine; those that run are left."""
    from sightflow.schemas.spec_reader import read_spec

    read = read_spec(spec)
    from sightflow.infra.local_run import run_collect

    try:
        with console.status("asking how the batches stand ..."):
            done = run_collect(read)
    except QuarantineExceeded as error:
        _show(error.report, as_json)
        raise
    if done is None:
        console.print_json("null") if as_json else console.print("no batch is under way")
        return
    _show(done, as_json)


def _show(done: RunReport, as_json: bool) -> None:
    if as_json:
        console.print_json(done.model_dump_json())
        return
    for outcome in done.batches:
        console.print(safe(outcome.summary), soft_wrap=True)
    if done.commits:
        show_report(done)
