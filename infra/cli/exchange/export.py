"""sightflow export: a catalog in the formats that others read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightflow.infra.cli.catalog import Endpoint, Uri, Version, find_catalog
from sightflow.infra.cli.gallery import MediaFrom, media_places
from sightflow.infra.cli.screen import console, problems, safe, say
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.policy import Limits

if TYPE_CHECKING:
    from sightflow.blocks.exports.export import ExportReport
    from sightflow.blocks.exports.selected_rows import Wanted
    from sightflow.blocks.store.media_places import MediaPlaces

Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="coco, yolo, hf (Hugging Face datasets), webdataset, mot, label-studio, csv, jsonl or parquet.",
    ),
]
Where = Annotated[
    str,
    typer.Option(
        metavar="SQL",
        help="Only rows that meet this condition, or whose object does in the view `catalog`; as in `catalog query`.",
    ),
]
Enrichments = Annotated[list[str] | None, typer.Option("--enrichment", help="Only this enrichment; may be repeated.")]
Out = Annotated[Path | None, typer.Option(help="The folder to write; unset, `sightflow-FORMAT`.")]
Media = Annotated[
    str,
    typer.Option(
        help="copy: their bytes, if they have not changed. link: local files as symbolic links, others by their URI."
    ),
]
MaxBytes = Annotated[int, typer.Option(min=1, help="Of one media object that is copied.")]
MOST_BYTES = Limits().max_video_bytes
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Do without media that cannot be had; the report lists them.")
]
_MOST_LISTED = 5


def export(
    uri: Uri,
    format: Format,
    where: Where = "",
    enrichment: Enrichments = None,
    media: Media = "link",
    out: Out = None,
    version: Version = None,
    max_bytes: MaxBytes = MOST_BYTES,
    skip_missing: SkipMissing = False,
    media_from: MediaFrom = None,
    endpoint_url: Endpoint = None,
) -> None:
    """Write the catalog's rows, with their media or without, in a format that other tools read.

    A killed export goes on when the same command is given again.
    """
    from sightflow.blocks.exports.selected_rows import Wanted

    wanted = Wanted("enrichments", where, tuple(enrichment or ()), version)
    catalog = find_catalog(uri, endpoint_url)
    run_export(catalog, wanted, format, out, media, max_bytes, media_places(uri, catalog, media_from), skip_missing)


def run_export(
    catalog: Any,
    wanted: Wanted,
    format: str,
    out: Path | None,
    media: str,
    max_bytes: int,
    places: MediaPlaces,
    skip_missing: bool,
) -> None:
    """Export, and say what was left out. Raises SightflowError if media could not be had."""
    from sightflow.blocks.exports.export import export as write
    from sightflow.blocks.exports.export import export_format

    chosen = export_format(format)
    if media not in ("link", "copy"):
        raise SpecError(f"--media {media} is not known; allowed: link, copy")
    folder = out or Path(f"sightflow-{format}")
    for what in chosen.loses:
        console.print(f"{format} does not hold: {safe(what)}", soft_wrap=True)
    report = write(catalog, wanted, chosen, folder, media, max_bytes, skip_missing, say, places)  # type: ignore[arg-type]
    _print(report, folder, format, skip_missing)


def _print(report: ExportReport, folder: Path, format: str, skip_missing: bool) -> None:
    for what, count in report.left_out.items():
        console.print(f"left out: {count:,} {safe(what)}", soft_wrap=True)
    if report.failed:
        for uri, reason in report.failures[:_MOST_LISTED]:
            problems.print(f"{safe(uri)}: {safe(reason)}", soft_wrap=True)
        if not skip_missing:
            raise SightflowError(
                f"{report.failed:,} media could not be had. Give the same command again to try these again, or with "
                f"--skip-missing to do without them; {folder} is not done"
            )
        console.print(f"left out: {report.failed:,} media that could not be had")
    console.print(
        f"{report.rows:,} rows of {report.objects:,} objects as {format} in {safe(folder)}; "
        "sightflow-export.json there says what was left out",
        soft_wrap=True,
    )
