"""sightflow replay: run again what is in quarantine."""

from __future__ import annotations

from typing import Annotated

import typer

from sightflow.infra.cli.catalog import Endpoint, Uri, find_catalog
from sightflow.infra.cli.run import run_enrich, show_report
from sightflow.schemas.failure import Cause, SpecError
from sightflow.schemas.run.report import QuarantineExceeded, RunReport
from sightflow.schemas.run.selection import Selection


def replay(
    uri: Uri,
    cause: Annotated[list[Cause] | None, typer.Option(help="Only this cause; may be given several times.")] = None,
    model: Annotated[str | None, typer.Option(help="Only what this system failed at, e.g. gpt-4o.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many objects.")] = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Ask again about what is in quarantine, as the last run did; what succeeds moves into the catalog.

    A spec in place of the catalog's URI asks with that spec.
    """
    from sightflow.schemas.spec_reader import read_spec

    if uri.endswith((".yaml", ".yml")):
        spec = read_spec(uri)
    else:
        catalog = find_catalog(uri, endpoint_url)
        runs = catalog.read(catalog.scan("runs").sort("started_at").select("report"))
        last = RunReport.model_validate_json(runs["report"][-1]) if runs.height else None
        if last is None or last.spec is None:
            raise SpecError(f"no run of {uri} has left its spec; give the spec file in place of the catalog")
        spec = last.spec
    chosen = Selection(replay=True, causes=tuple(cause or ()), system=model, limit=limit)
    try:
        done = run_enrich(spec, chosen)
    except QuarantineExceeded as error:
        show_report(error.report)
        raise
    show_report(done)
