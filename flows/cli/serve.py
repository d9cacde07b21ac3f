"""sightflow serve: run a spec by schedule, in one process on one machine."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

import typer

from flows.cli.plan import SpecFile
from flows.cli.screen import console, safe
from schemas.failure import SpecError


def serve(
    spec: SpecFile,
    cron: Annotated[str | None, typer.Option(help='When, e.g. "0 2 * * *": every night at two.')] = None,
    interval: Annotated[float | None, typer.Option(min=1, help="Seconds from one start to the next.")] = None,
    overlap: Annotated[
        Literal["wait", "skip"], typer.Option(help="What a run does that comes due while one is still going on.")
    ] = "wait",
) -> None:
    """Run a spec by schedule until this is stopped; a run under way is then finished by the next start's plan.

    It uses the Prefect server that is configured, or starts one on this machine, whose runs are forgotten with it; the
    catalog forgets nothing.
    """
    if (cron is None) == (interval is None):
        raise SpecError("give either --cron or --interval")
    from infra.prefect_server import prefect_api
    from schemas.spec import read_spec
    from tasks.route import asks_of

    read = read_spec(spec)
    asks_of(read)  # what cannot be served is said before a server is started
    when: dict[str, Any] = {"cron": cron} if cron else {"interval": timedelta(seconds=interval or 0)}
    with prefect_api() as server:
        if server is not None:
            with console.status("starting Prefect on this machine"):
                server.wait()
        import prefect
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.settings import get_current_settings

        from flows.enrich import enrich

        strategy = ConcurrencyLimitStrategy.ENQUEUE if overlap == "wait" else ConcurrencyLimitStrategy.CANCEL_NEW
        try:
            deployment: Any = enrich.to_deployment(
                name=spec.stem,
                parameters={"spec": read.model_dump(mode="json")},
                concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=strategy),
                tags=["sightflow"],
                **when,
            )
        except ValueError as error:
            raise SpecError(f"the schedule is not understood: {error}") from None
        address = (get_current_settings().api.url or "").removesuffix("/api")
        console.print(f"serving [bold]{safe(spec)}[/bold]; runs are shown at {safe(address)}", soft_wrap=True)
        console.print("stop with Ctrl-C; what was committed stays, and the next run goes on from there")
        prefect.serve(deployment, print_starting_message=False)
