"""sightflow label: what people say is right, from files of other tools and into them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightflow.infra.cli.catalog import Endpoint, Uri, find_catalog
from sightflow.infra.cli.exchange.export import (
    MOST_BYTES,
    Enrichments,
    Format,
    MaxBytes,
    Media,
    Out,
    SkipMissing,
    Where,
    run_export,
)
from sightflow.infra.cli.gallery import MediaFrom, media_places
from sightflow.infra.cli.screen import console, flag, safe
from sightflow.schemas.failure import SpecError

app = typer.Typer(no_args_is_help=True, help="Take labels from files of other tools, and give them.")


@app.command("import")
def import_(
    uri: Uri,
    path: Annotated[Path, typer.Argument(help="A file of labels, or the folder of an export.")],
    format: Annotated[str, typer.Option("--format", help="coco, yolo, mot, label-studio, csv or jsonl.")],
    enrichment: Annotated[str, typer.Option(help="Of labels whose format names none: coco, yolo, mot.")] = "",
    by: Annotated[str, typer.Option(help="Who says so; unset, the name of this user.")] = "",
    root: Annotated[
        str, typer.Option(help="The URI below which files have their names, e.g. s3://bucket/photos.")
    ] = "",
    replace: Annotated[bool, flag("--replace", help="Also where there is a label already.")] = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Save labels from files; nothing is written unless all of them pass the checks of the catalog."""
    import getpass

    from sightflow.blocks.exports.label_import import ImportOptions, import_labels

    catalog = find_catalog(uri, endpoint_url)
    options = ImportOptions(by or getpass.getuser(), enrichment, root, replace)
    report = import_labels(catalog, path, format, options)
    for problem in report.problems:
        console.print(f"not imported: {safe(problem)}", soft_wrap=True)
    for what, count in report.counts.items():
        console.print(f"{count:,} labels {what}")
    console.print(f"{report.saved:,} labels saved")


@app.command("export")
def export(
    uri: Uri,
    format: Format,
    where: Where = "",
    enrichment: Enrichments = None,
    media: Media = "link",
    out: Out = None,
    max_bytes: MaxBytes = MOST_BYTES,
    skip_missing: SkipMissing = False,
    media_from: MediaFrom = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Write the labels, with their media or without; those of objects that have changed are told and left out."""
    from sightflow.blocks.catalog.labels import Labels
    from sightflow.blocks.exports.selected_rows import Wanted

    catalog = find_catalog(uri, endpoint_url)
    if catalog.table("labels") is None:
        raise SpecError(f"{catalog.uri} has no labels; make some with: sightflow review, or sightflow label import")
    for state, count in Labels(catalog).states()["state"].value_counts(sort=True).iter_rows():
        if state == "current":
            continue
        what = "of objects that have changed" if state == "changed" else "of objects that the catalog does not know"
        console.print(f"left out: {count:,} labels {what}")
    wanted, places = Wanted("labels", where, tuple(enrichment or ())), media_places(uri, catalog, media_from)
    run_export(catalog, wanted, format, out, media, max_bytes, places, skip_missing)
