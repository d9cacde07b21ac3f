"""The commands and their help."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated

import typer

from sightflow.infra.cli.screen import Commands, console

# Where each is: a function, or an app with commands of its own.
_COMMANDS: Mapping[str, str] = {
    "demo": "demo:demo",
    "plan": "plan:plan",
    "run": "run:run",
    "budget": "budget:budget",
    "collect": "batches.collect:collect",
    "batches": "batches.look:app",
    "serve": "serving.serve:serve",
    "deploy": "serving.deploy:deploy",
    "worker": "serving.worker:worker",
    "bridge": "serving.bridge:bridge",
    "replay": "replay:replay",
    "catalog": "catalog:app",
    "quarantine": "catalog:quarantine_app",
    "models": "models:app",
    "export": "exchange.export:export",
    "label": "exchange.labels:app",
    "route": "models:route",
    "gallery": "gallery:gallery",
    "review": "gallery:review",
    "doctor": "doctor:doctor",
}
_HELP = """
Turn a bucket of images and videos into a validated, queryable catalog with vision-language models.

Start with `sightflow demo`. Then write a spec (see docs/spec.md), look at `sightflow plan SPEC`, and
`sightflow run SPEC`; look at what it made with `sightflow catalog query URI "SELECT * FROM catalog"`.

Exit codes: 0 done, 2 bad usage or spec, 3 more failures than the policy allows, 4 the budget is met,
1 anything else.
"""


def command_line(word: str | None = None) -> typer.Typer:
    """The commands: all of them, or the one whose name `word` is, without the modules of the others."""
    app = typer.Typer(
        name="sightflow",
        cls=Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help=_HELP,
    )
    app.callback()(_options)
    for name, place in _COMMANDS.items():
        if word in _COMMANDS and name != word:
            continue
        module, _, attribute = place.partition(":")
        found = getattr(import_module(f"sightflow.infra.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.print(f"sightflow {version('sightflow')}")
        raise typer.Exit


def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before a command."""
