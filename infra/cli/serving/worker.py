"""sightflow worker: run what is deployed."""

from __future__ import annotations

from typing import Annotated

import typer

from sightflow.infra.cli.screen import console, safe, say
from sightflow.infra.cli.serving.deploy import Pool

Poll = Annotated[float, typer.Option(min=0.2, help="Seconds between looks for runs that are due.")]
Limit = Annotated[int, typer.Option(min=1, help="Most runs at once; they share the models.")]
Heartbeat = Annotated[
    int, typer.Option(min=1, help="Seconds between signs of life; silent for three, a worker is taken for dead.")
]
Metrics = Annotated[str | None, typer.Option(metavar="[HOST:]PORT", help="Where Prometheus may read counters.")]


def worker(
    pool: Pool = "sightflow", poll: Poll = 10.0, limit: Limit = 4, heartbeat: Heartbeat = 10, metrics: Metrics = None
) -> None:
    """Take runs from a work pool and run them in this process, whose models stay loaded from run to run.

    SIGTERM or Ctrl-C: the shards in flight are finished, and the runs are given back to the pool. Runs that a dead
    worker has left are given back too.
    """
    from sightflow.infra.configured_server import await_api
    from sightflow.infra.metrics import serve_metrics

    address = await_api(say)
    serve_metrics(metrics)
    with console.status("loading libraries"):
        from sightflow.infra.service.worker import run_worker

    console.print(
        f"taking runs of the pool [bold]{safe(pool)}[/bold]; they are shown at {safe(address)}", soft_wrap=True
    )
    run_worker(pool, poll, limit, say, heartbeat)
    console.print("stopped; nothing is left locked")
