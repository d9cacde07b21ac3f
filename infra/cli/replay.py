"""sightflow replay: run again what is in quarantine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from sightflow.infra.cli.catalog import Endpoint, Uri, find_catalog
from sightflow.infra.cli.run import run_watched, show_report
from sightflow.infra.cli.screen import command
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause, SpecError
from sightflow.schemas.run.report import QuarantineExceeded
from sightflow.schemas.run.selection import Selection

Own = Annotated[
    Path | None, typer.Option(metavar="SPEC", help="Of a catalog: your spec, which says where, with what and by whom.")
]


def replay(
    uri: Uri,
    spec: Own = None,
    cause: Annotated[list[Cause] | None, typer.Option(help="Only this cause; may be given several times.")] = None,
    model: Annotated[str | None, typer.Option(help="Only what this system failed at, e.g. gpt-4o.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many objects.")] = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Ask again about what is in quarantine; what succeeds moves into the catalog.

    With the spec file itself, as it says. With a catalog's URI and --spec, the enrichments of the catalog's last run,
    and all else as your spec says: what a catalog holds is data, and names no source, store, model or runner.
    """
    from sightflow.schemas.spec_reader import is_spec_file, read_spec
    from sightflow.schemas.spec_yaml import SpecPlaces
    from sightflow.tasks.route import check_models

    if is_spec_file(uri):
        if spec is not None or endpoint_url is not None:
            raise SpecError(f"{uri} is a spec itself: --spec and --endpoint-url go with the URI of a catalog")
        own = read_spec(uri)
    elif spec is None:
        raise SpecError(
            "a catalog is data: its stored spec is not run; replay with your own: sightflow replay SPEC, or "
            f"{command('sightflow', 'replay', uri, '--spec')} SPEC for the enrichments of its last run"
        )
    else:
        own = check_models(read_spec(spec))
        asked = {"enrichments": _last_enrichments(uri, endpoint_url)}
        own = own.model_copy(update=asked).read_at(SpecPlaces())  # these enrichments stand in no line of the file
    chosen = Selection(replay=True, causes=tuple(cause or ()), system=model, limit=limit)
    try:
        done = run_watched(own, chosen)
    except QuarantineExceeded as error:
        show_report(error.report)
        raise
    show_report(done)


def _last_enrichments(uri: str, endpoint_url: str | None) -> tuple[Enrichment, ...]:
    """The enrichments of the last run of a catalog, checked as those of a spec file are."""
    catalog = find_catalog(uri, endpoint_url)
    runs = catalog.read(catalog.scan("runs").sort("started_at").select("report").tail(1))
    try:
        stored = json.loads(runs["report"][0])["spec"]["enrichments"] if runs.height else None
        found = TypeAdapter(tuple[Enrichment, ...]).validate_python(stored)
    except (ValueError, KeyError, TypeError, RecursionError):
        found = ()
    if not found:
        raise SpecError(f"no run of {uri} has left its enrichments; give the spec file in place of the catalog")
    return found
