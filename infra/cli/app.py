"""The commands and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from sightflow.infra.cli import budget, catalog, demo, doctor, gallery, models, plan, replay, run
from sightflow.infra.cli.batches import collect, look
from sightflow.infra.cli.exchange import export, labels
from sightflow.infra.cli.screen import Commands, console
from sightflow.infra.cli.serving import bridge, deploy, serve, worker

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

Exit codes: 0 done, 2 bad usage or spec, 3 more failures than the policy allows, 4 the budget is met,
1 anything else.
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
app.command("budget")(budget.budget)
app.command("collect")(collect.collect)
app.add_typer(look.app, name="batches")
app.command("serve")(serve.serve)
app.command("deploy")(deploy.deploy)
app.command("worker")(worker.worker)
app.command("bridge")(bridge.bridge)
app.command("replay")(replay.replay)
app.add_typer(catalog.app, name="catalog")
app.add_typer(catalog.quarantine_app, name="quarantine")
app.add_typer(models.app, name="models")
app.command("export")(export.export)
app.add_typer(labels.app, name="label")
app.command("route")(models.route)
app.command("gallery")(gallery.gallery)
app.command("review")(gallery.review)
app.command("doctor")(doctor.doctor)
