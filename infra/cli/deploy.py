"""sightflow deploy: have a Prefect server run a spec by schedule and on uploads."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sightflow.infra.cli.plan import SpecFile
from sightflow.infra.cli.screen import command, console, flag, safe, show_next, show_table

Cron = Annotated[str | None, typer.Option(help='When, in UTC or in --timezone: "0 2 * * *", every night at two.')]
Timezone = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of --cron, an IANA name such as Europe/Berlin; unset, UTC.")
]
Interval = Annotated[float | None, typer.Option(help="Seconds from one start to the next, at least 1.")]
Overlap = Annotated[
    Literal["wait", "skip"], typer.Option(help="What a scheduled run does that comes due while one is still going on.")
]
Name = Annotated[str | None, typer.Option(help="Of the deployment; unset, the name of the spec file.")]
Pool = Annotated[str, typer.Option(help="The work pool; made, of type sightflow, if it is not there.")]


def deploy(
    spec: SpecFile,
    cron: Cron = None,
    timezone: Timezone = None,
    interval: Interval = None,
    on_upload: Annotated[bool, flag("--on-upload", help="Also run on what `sightflow bridge` announces.")] = False,
    overlap: Overlap = "wait",
    name: Name = None,
    pool: Pool = "sightflow",
    notify: Annotated[
        str | None, typer.Option(metavar="TYPE/NAME", help="A saved notification block to tell of failed runs.")
    ] = None,
) -> None:
    """Make the deployments of a spec on the configured Prefect server: pool, schedule, limit and automation.

    Made again, it renews them: do so when the spec file has changed, for a deployment holds the spec as it was.
    """
    from sightflow.infra.configured_server import configured_api
    from sightflow.infra.service.deployments import deploy
    from sightflow.infra.service.schedule import Schedule
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.route import check_models

    read = check_models(read_spec(spec))
    schedule = Schedule(cron, interval, timezone)
    configured_api()
    with console.status("writing to the Prefect server"):
        made = deploy(name or spec.stem, read, schedule, on_upload, overlap, pool, notify)
    kind = made[0].pool_type
    rows = [(each.name, each.starts) for each in made]
    show_table(f"deployed to the pool {pool} ({kind})", "deployment", "runs", rows=rows)
    show_next(*(("sightflow", "worker") if kind == "sightflow" else ("prefect", "worker", "start")), "--pool", pool)
    if on_upload:
        following = command("sightflow", "bridge", spec, "--queue", "URL")
        console.print(f"and:  [bold]{safe(following)}[/bold]", soft_wrap=True)
