"""sightflow batches: list, show and cancel what has been asked by batch."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from sightflow.infra.cli.catalog import Endpoint, Uri, find_catalog
from sightflow.infra.cli.plan import SpecFile
from sightflow.infra.cli.screen import console, flag, safe, show_table
from sightflow.schemas.failure import SpecError
from sightflow.schemas.run.batch import Batch

app = typer.Typer(no_args_is_help=True, help="What vendors have been asked by batch, and how far it has come.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the batch, or how it begins; see `batches list`.")]
Ended = Annotated[bool, flag("--all", help="Also those that are closed or abandoned.")]


@app.command("list")
def list_batches(uri: Uri, every: Ended = False, endpoint_url: Endpoint = None) -> None:
    """List the batches of a catalog that are under way, the oldest first."""
    found = [batch for batch in _log(uri, endpoint_url).batches() if every or not batch.state.is_settled]
    if not found:
        console.print("no batch is under way" + ("" if every else "; --all lists those that have ended"))
        return
    rows = [
        (
            batch.batch_id[:8],
            batch.state,
            batch.system,
            batch.model_id,
            f"{batch.requests:,}",
            f"{batch.recorded_at:%Y-%m-%d %H:%M}",
            f"{batch.reached_at:%Y-%m-%d %H:%M}",
            batch.vendor_batch or "",
            batch.message or "",
        )
        for batch in found
    ]
    columns = ("batch", "state", "model", "id", "requests", "recorded (UTC)", "since (UTC)", "at the vendor", "message")
    show_table(f"{len(found):,} batches", *columns, rows=rows, right=("requests",))


@app.command()
def show(uri: Uri, batch: Id, endpoint_url: Endpoint = None) -> None:
    """Say what one batch holds and where it stands."""
    log = _log(uri, endpoint_url)
    found = _named(log.batches(), batch)
    requests, _ = log.requests(found)
    fields = {
        "state": found.state,
        "message": found.message,
        "recorded": f"{found.recorded_at:%Y-%m-%d %H:%M:%S} UTC",
        "since": f"{found.reached_at:%Y-%m-%d %H:%M:%S} UTC",
        "model": f"{found.system} ({found.model_id}) at {found.vendor}",
        "at the vendor": found.vendor_batch,
        "files": ", ".join(file for file in (found.input_file, *found.result_files) if file),
        "may cost at most": f"${sum(request.most_usd for request in requests):,.4f}",
        "by the run": found.run_id,
        "by the process": found.owner,
    }
    show_table(found.batch_id, "", "", rows=[(name, value) for name, value in fields.items() if value])
    counts = Counter((request.enrichment, request.media_kind) for request in requests)
    rows = [(name, kind, f"{count:,}") for (name, kind), count in sorted(counts.items())]
    show_table("", "enrichment", "of", "requests", rows=rows, right=("requests",))


@app.command()
def cancel(
    spec: SpecFile,
    batch: Id,
    drop: Annotated[
        bool, typer.Option("--drop", help="Give up what is done too; it is paid, and asked again.")
    ] = False,
) -> None:
    """Have a vendor do no more of a batch: what is done is paid, and collected; the rest is asked by the next run."""
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.batches.cancel import cancel_batch
    from sightflow.tasks.open import open_catalog

    read = read_spec(spec)
    catalog = open_catalog(read)
    from sightflow.blocks.catalog.batch_log import BatchLog

    found = _named(BatchLog(catalog).batches(), batch)
    console.print(safe(cancel_batch(catalog, found, read, drop)), soft_wrap=True)


def _log(uri: str, endpoint_url: str | None) -> Any:
    from sightflow.blocks.catalog.batch_log import BatchLog

    return BatchLog(find_catalog(uri, endpoint_url))


def _named(batches: list[Batch], name: str) -> Batch:
    """The one batch whose id begins so."""
    found = [batch for batch in batches if batch.batch_id.startswith(name.lower())]
    if len(found) != 1:
        raise SpecError(f"{len(found) or 'no'} batches are called {name}; see: sightflow batches list")
    return found[0]
