"""The commands and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from sightflow.infra.cli import bridge, catalog, demo, deploy, doctor, models, plan, replay, run, serve, worker
from sightflow.infra.cli.screen import Commands, console

app = typer.Typer(
    name="sightflow",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""
Turn a bucket of images and videos into a validated, queryable catalog with vision-language models.

Start with `sightflow demo`. Then write a spec (see docs/spec.md), look at `sightflow plan SPEC`, and
`sightflow run SPEC`; look at what it made with `sightflow catalog query URI "SELECT * FROM catalog"`.

Exit codes: 0 done, 2 bad usage or spec, 3 more failures than the policy allows, 1 anything else.
""",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(f"sightflow {version('sightflow')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before a command."""


app.command("demo")(demo.demo)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("deploy")(deploy.deploy)
app.command("worker")(worker.worker)
app.command("bridge")(bridge.bridge)
app.command("replay")(replay.replay)
app.add_typer(catalog.app, name="catalog")
app.add_typer(catalog.quarantine_app, name="quarantine")
app.add_typer(models.app, name="models")
app.command("route")(models.route)
app.command("doctor")(doctor.doctor)
