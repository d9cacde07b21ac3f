"""Turns a bucket of images and videos into a validated, queryable catalog with vision-language models.

    import sightflow

    spec = sightflow.read_spec("spec.yaml")
    print(sightflow.plan(spec).to_compute)      # what is left to do; nothing is spent
    report = sightflow.enrich(spec)             # do it
    rows = sightflow.read(spec)                 # a polars.DataFrame

Everything else is imported from where it lies: `sightflow.flows.enrich`, `sightflow.schemas.spec`, `sightflow.blocks`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    import duckdb
    import polars
    import pyarrow

    from sightflow.blocks.catalog.catalog import Catalog, TableName
    from sightflow.schemas.run.plan import RunPlan
    from sightflow.schemas.run.report import RunReport
    from sightflow.schemas.run.selection import Selection
    from sightflow.schemas.spec import EnrichmentSpec

    Spec = EnrichmentSpec | str | Path
    Rows = TableName | Literal["catalog"]

__all__ = ["__version__", "enrich", "plan", "read", "read_spec"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version  # its parser of e-mail takes longer to load than the rest of this module

        return version("sightflow")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def read_spec(path: str | Path) -> EnrichmentSpec:
    """Read and check a spec file. Raises SpecError that lists every mistake with its line and what is allowed."""
    from sightflow.schemas.spec_reader import read_spec as read_file
    from sightflow.tasks.route import check_models

    return check_models(read_file(path))


def plan(spec: Spec, selection: Selection | None = None) -> RunPlan:
    """What a run would do: counted, routed and priced, with nothing computed, spent or written.

    Raises SpecError if an enrichment cannot be served here, StoreError if the source or the catalog cannot be read.
    """
    from sightflow.schemas.run.selection import EVERYTHING
    from sightflow.tasks.discover import discover
    from sightflow.tasks.plan import plan as plan_task

    spec, selection = _spec(spec), selection or EVERYTHING
    return plan_task.fn(discover.fn(spec, selection, check=False), spec, selection)


def enrich(spec: Spec, selection: Selection | None = None) -> RunReport:
    """Bring the catalog up to date with its source; return what was done, skipped and quarantined.

    Within a flow of your own it is a subflow; else it runs on the Prefect server that is configured, or on one of its
    own for the time of the run. Where none is configured, a run with nothing to do needs none.
    Raises QuarantineExceeded, with everything good published, if more failed than the policy allows; SpecError,
    StoreError or ModelError if it cannot go on.
    """
    from sightflow.infra.local_run import run_enrich
    from sightflow.schemas.run.selection import EVERYTHING

    spec, selection = _spec(spec), selection or EVERYTHING
    if "prefect" in sys.modules:
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is not None:
            from sightflow.flows.enrich import enrich as flow

            return flow(spec, selection)
    return run_enrich(spec, selection)


@overload
def read(
    catalog: Spec, table: Rows = "enrichments", *, version: int | None = None, output: Literal["polars"] = "polars"
) -> polars.DataFrame: ...
@overload
def read(
    catalog: Spec, table: Rows = "enrichments", *, version: int | None = None, output: Literal["arrow"]
) -> pyarrow.Table: ...
@overload
def read(
    catalog: Spec, table: Rows = "enrichments", *, version: int | None = None, output: Literal["duckdb"]
) -> duckdb.DuckDBPyRelation: ...
def read(
    catalog: Spec,
    table: Rows = "enrichments",
    *,
    version: int | None = None,
    output: Literal["polars", "arrow", "duckdb"] = "polars",
) -> polars.DataFrame | pyarrow.Table | duckdb.DuckDBPyRelation:
    """The rows of a catalog: of its `enrichments`, its `quarantine` or its `runs`, or `catalog`, one row an object.

    `catalog`: a URI, a local folder, a spec or the path of a spec file (`.yaml`, `.yml`). `version`: of `enrichments`;
    unset, the newest. `output`: a polars.DataFrame, a pyarrow.Table, or a relation of a DuckDB connection that has the
    views `catalog` (one row an object), `enrichments`, `quarantine` and `runs`. A catalog that does not exist yet has
    no rows. Raises StoreError if it cannot be read, InvalidUriError if the URI names no storage that is known.
    """
    found = _catalog(catalog)
    if output == "duckdb":
        from sightflow.blocks.catalog.sql_views import connect

        return connect(found, version).table(table)
    if table == "catalog":
        from sightflow.blocks.catalog.sql_views import read_wide

        wide = read_wide(found, version)
        return wide if output == "polars" else wide.to_arrow()
    rows = found.read(found.scan(table, version if table == "enrichments" else None))
    return rows if output == "polars" else rows.to_arrow()


def _spec(spec: Spec) -> EnrichmentSpec:
    from sightflow.tasks.route import check_models

    return read_spec(spec) if isinstance(spec, str | Path) else check_models(spec)


def _catalog(catalog: Spec) -> Catalog:
    from sightflow.blocks.catalog.catalog import Catalog
    from sightflow.schemas.spec_reader import is_spec_file
    from sightflow.tasks.open import open_catalog

    if isinstance(catalog, str | Path) and not is_spec_file(catalog):
        return Catalog.at(catalog)
    return open_catalog(_spec(catalog))
