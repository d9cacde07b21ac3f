"""sightflow catalog and sightflow quarantine: look at what was published and what failed."""

from __future__ import annotations

from typing import Annotated, Any

import polars as pl
import typer

from sightflow.infra.cli.screen import command, console, flag, is_terminal, safe, show_next, show_table
from sightflow.schemas.failure import SpecError, StoreError
from sightflow.schemas.object_uri import InvalidUriError

app = typer.Typer(no_args_is_help=True, help="Show, query, compare, restore and look after a published catalog.")
quarantine_app = typer.Typer(no_args_is_help=True, help="What failed, with its cause.")

Uri = Annotated[
    str, typer.Argument(metavar="URI", help="s3://bucket/catalog (gs://, az://), a local folder, or the spec file.")
]
Endpoint = Annotated[
    str | None, typer.Option(help="Of an S3-compatible store; AWS_ENDPOINT_URL works too. Or Azure's.")
]
Version = Annotated[int | None, typer.Option(help="An earlier version; see `catalog history`.")]


def find_catalog(uri: str, endpoint: str | None) -> Any:
    """The catalog at a URI, a folder, or named by a spec file, which says itself how it is reached.

    Raises StoreError if there is none, SpecError for an endpoint beside a spec file or one that is no address.
    """
    from pydantic import ValidationError

    from sightflow.blocks.catalog.catalog import Catalog
    from sightflow.schemas.spec_reader import is_spec_file, read_spec

    if is_spec_file(uri):
        if endpoint is not None:
            raise SpecError(
                f"{uri} is a spec, whose `store` says the endpoint: --endpoint-url goes with a catalog's URI"
            )
        from sightflow.tasks.open import open_catalog

        found = open_catalog(read_spec(uri))
    else:
        try:
            found = Catalog.at(uri, endpoint)
        except InvalidUriError as error:
            raise SpecError(str(error)) from None
        except ValidationError as error:  # its own text would show what was given
            said = "; ".join(str(problem.get("ctx", {}).get("error", problem["msg"])) for problem in error.errors())
            raise SpecError(f"--endpoint-url: {said}") from None
    if all(found.table(name) is None for name in ("enrichments", "quarantine")):
        raise StoreError(f"there is no catalog at {found.uri}; publish one with: sightflow run SPEC")
    return found


@app.command()
def show(uri: Uri, version: Version = None, endpoint_url: Endpoint = None) -> None:
    """Say what the catalog holds: rows, objects and models by enrichment, and what failed."""
    catalog = find_catalog(uri, endpoint_url)
    rows = catalog.scan("enrichments", version)
    held = catalog.read(
        rows.group_by("enrichment", "capability")
        .agg(
            pl.len().alias("rows"),
            pl.col("model_id").unique().sort().alias("models"),
            pl.col("cost_usd").sum(),
            pl.col("inferred_at").max().alias("newest"),
        )
        .sort("enrichment")
    )
    objects = catalog.read(rows.select(pl.col("uri").n_unique())).item()
    at = catalog.version() if version is None else version
    shown = [
        (r["enrichment"], r["capability"], f"{r['rows']:,}", f"{r['newest']:%Y-%m-%d %H:%M}", ", ".join(r["models"]))
        for r in held.iter_rows(named=True)
    ]
    title = f"{catalog.uri}, version {at}: {objects:,} objects"
    show_table(title, "enrichment", "capability", "rows", "newest (UTC)", "model", rows=shown, right=("rows",))
    failed = open_cases(catalog).height
    if failed:
        listed = command("sightflow", "quarantine", "list", uri)
        console.print(f"{failed:,} items in quarantine: {safe(listed)}", soft_wrap=True)
    show_next("sightflow", "catalog", "query", uri, "SELECT * FROM catalog LIMIT 5")


@app.command()
def query(
    uri: Uri,
    sql: Annotated[str, typer.Argument(help="Views: catalog (one row an object), enrichments, quarantine, runs.")],
    version: Version = None,
    format: Annotated[str, typer.Option(help="table, json (one object a line) or csv.")] = "table",
    timeout: Annotated[int, typer.Option(min=1, max=10**6, help="The most seconds that the query may take.")] = 300,
    endpoint_url: Endpoint = None,
) -> None:
    """Ask the catalog in SQL. The view `catalog` has one row an object and a column for each enrichment."""
    import duckdb

    from sightflow.blocks.catalog.sql_views import connect
    from sightflow.infra.cli.query import Query, print_csv, print_json, print_table

    formats = {"table": print_table, "json": print_json, "csv": print_csv}
    if format not in formats:
        raise SpecError(f"--format {format} is not known; allowed: {', '.join(formats)}")
    catalog = find_catalog(uri, endpoint_url)
    try:
        asked = Query(connect(catalog, version), sql, timeout)
        formats[format](asked.names, asked.rows(), is_terminal())
    except duckdb.Error as error:
        raise SpecError(f"the query is not understood: {catalog.store.redact(str(error))}") from None


@app.command()
def view(uri: Uri, version: Version = None, endpoint_url: Endpoint = None) -> None:
    """Print the view `catalog` as standard SQL over the table `enrichments`, for another engine that reads Delta."""
    from sightflow.blocks.catalog.sql_views import wide_view

    print(wide_view(find_catalog(uri, endpoint_url), version))


@app.command()
def history(uri: Uri, limit: Annotated[int, typer.Option(min=1)] = 20, endpoint_url: Endpoint = None) -> None:
    """List the catalog's versions, newest first."""
    from datetime import UTC, datetime

    from sightflow.blocks.catalog.commit_log import COUNT_PREFIX

    delta = find_catalog(uri, endpoint_url).table("enrichments")
    rows = []
    for commit in delta.history(limit) if delta is not None else []:
        metrics = commit.get("operationMetrics", {})
        moment = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        added, changed, gone = (
            commit.get(f"{COUNT_PREFIX}{kind}", metrics.get(f"num_target_rows_{kind}", 0))  # the latter of a merge
            for kind in ("inserted", "updated", "deleted")
        )
        rows.append((commit["version"], f"{moment:%Y-%m-%d %H:%M:%S}", added, changed, gone, commit["operation"]))
    numbers = ("version", "added", "changed", "removed")
    show_table("", "version", "when (UTC)", "added", "changed", "removed", "operation", rows=rows, right=numbers)


@app.command()
def diff(
    uri: Uri,
    old: Annotated[int, typer.Argument(help="The earlier version.")],
    new: Annotated[int | None, typer.Argument(help="The later one; unset, the newest.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="The most rows listed.")] = 50,
    endpoint_url: Endpoint = None,
) -> None:
    """List the rows that were added, removed or changed between two versions."""
    catalog = find_catalog(uri, endpoint_url)
    columns = ("uri", "enrichment", "fingerprint")
    before = catalog.scan("enrichments", old).select(columns)
    after = catalog.scan("enrichments", new).select(columns)
    changes = catalog.read(
        before.join(after, on=["uri", "enrichment"], how="full", coalesce=True, suffix="_after")
        .filter(pl.col("fingerprint").ne_missing(pl.col("fingerprint_after")))
        .select(
            change=pl.when(pl.col("fingerprint").is_null())
            .then(pl.lit("added"))
            .when(pl.col("fingerprint_after").is_null())
            .then(pl.lit("removed"))
            .otherwise(pl.lit("changed")),
            uri="uri",
            enrichment="enrichment",
        )
        .sort("uri", "enrichment")
    )
    counts = {name: changes.filter(pl.col("change") == name).height for name in ("added", "changed", "removed")}
    console.print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if changes.height:
        columns = ("change", "enrichment", "uri")
        show_table("", *columns, rows=changes.select(columns).head(limit).iter_rows())
    if changes.height > limit:
        console.print(f"{changes.height - limit:,} more; raise --limit to see them")


@app.command()
def restore(uri: Uri, version: Annotated[int, typer.Argument()], endpoint_url: Endpoint = None) -> None:
    """Make the catalog what it was at a version, as a new commit; nothing of the history is lost."""
    committed = find_catalog(uri, endpoint_url).restore(version)
    console.print(f"restored version {version} as version {committed}")


@app.command()
def upkeep(
    uri: Uri,
    keep_days: Annotated[
        int | None, typer.Option(min=7, help="How far back diff and restore reach; unset, as the spec or catalog says.")
    ] = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Join small files, shorten the log and remove files that no kept version needs; no row is changed."""
    from sightflow.blocks.catalog.maintenance import maintain, retention_days
    from sightflow.schemas.policy import Upkeep
    from sightflow.schemas.spec_reader import is_spec_file, read_spec

    catalog = find_catalog(uri, endpoint_url)
    if is_spec_file(uri):
        keep_days = keep_days or read_spec(uri).policy.upkeep.keep_days
    policy = Upkeep(keep_days=keep_days or retention_days(catalog))
    for tended in maintain(catalog, policy, even_if_not_due=True):
        console.print(safe(tended.summary), soft_wrap=True)


@quarantine_app.command("list")
def list_quarantine(
    uri: Uri,
    cause: Annotated[str | None, typer.Option(help="Only this cause class, e.g. decode.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most items listed.")] = 50,
    as_json: Annotated[bool, flag("--json", help="One JSON object a line, with the raw replies.")] = False,
    endpoint_url: Endpoint = None,
) -> None:
    """List what failed: the object, the enrichment, the cause, the stage, and what went wrong."""
    from sightflow.infra.cli.query import print_json
    from sightflow.schemas.failure import Cause

    if cause is not None and cause not in set(Cause):
        raise SpecError(f"{cause} is not a cause; allowed: {', '.join(Cause)}")
    cases = open_cases(find_catalog(uri, endpoint_url))
    if cause:
        cases = cases.filter(pl.col("cause") == cause)
    if as_json:
        print_json(cases.columns, cases.iter_rows(), is_terminal())
        return
    columns = ("uri", "enrichment", "cause", "stage", "message")
    show_table(f"{cases.height:,} items in quarantine", *columns, rows=cases.select(columns).head(limit).iter_rows())
    if cases.height > limit:
        console.print(f"{cases.height - limit:,} more; raise --limit to see them")


def open_cases(catalog: Any) -> pl.DataFrame:
    """The quarantine without what has been published since."""
    settled = catalog.scan("enrichments").select("uri", "enrichment", "fingerprint")
    frame: pl.DataFrame = catalog.read(
        catalog.scan("quarantine")
        .join(settled, on=["uri", "enrichment", "fingerprint"], how="anti")
        .sort("uri", "enrichment")
    )
    return frame
