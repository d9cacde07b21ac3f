"""One export: rows are selected, a format writes them, and what could not be held or had is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.exports.contract import Export, ExportFormat
from sightflow.blocks.exports.exported import LeftOut
from sightflow.blocks.exports.folder import ExportFolder
from sightflow.blocks.exports.formats import FORMATS
from sightflow.blocks.exports.media_files import MediaFiles, MediaMode
from sightflow.blocks.exports.selected_rows import SelectedRows, Wanted, select_rows
from sightflow.blocks.store.media_places import MediaPlaces
from sightflow.schemas.failure import SpecError


@dataclass(frozen=True)
class ExportReport:
    """What was exported. `left_out`: what the format could not hold of it, and how often; `loses`: what it cannot hold
    of any catalog. `failures`: media that could not be had (the first thousand of `failed`), with the reason.
    """

    objects: int
    rows: int
    left_out: Mapping[str, int]
    loses: tuple[str, ...]
    failed: int
    failures: tuple[tuple[str, str], ...]


def export_format(name: str) -> ExportFormat:
    """A format by its name. Raises SpecError that lists them."""
    if name not in FORMATS:
        raise SpecError(f"--format {name} is not known; allowed: {', '.join(FORMATS)}")
    module, _, kind = FORMATS[name].partition(":")
    return cast("ExportFormat", getattr(import_module(module), kind)())


def export(
    catalog: Catalog,
    wanted: Wanted,
    format: ExportFormat,
    out: Path,
    media: MediaMode,
    max_bytes: int,
    skip_missing: bool = False,
    say: Callable[[str], None] = lambda _: None,
    places: MediaPlaces | None = None,
) -> ExportReport:
    """Write an export into a folder, or go on with one that was killed there.

    The folder is done when its report is written; if media could not be had it is not, and the next call tries those
    again, unless `skip_missing`. `max_bytes`: of one media object. `say`: is told how far it is, in words.
    `places`: from where media are read. Raises SpecError if nothing is selected or the folder holds anything else,
    StoreError if the catalog cannot be read, SightflowError if the folder cannot be written.
    """
    plan = {"format": format.name, "catalog": catalog.uri, "media": media, **vars(wanted)}
    folder, left_out = ExportFolder(out, plan), LeftOut()
    with folder.opened():
        if (told := folder.report) is not None:
            folder.clear()
            return ExportReport(told["objects"], told["rows"], told["left_out"], format.loses, 0, ())
        selected = select_rows(catalog, wanted, format.all_columns, folder, left_out, format.refused_folders)
        say(f"{selected.rows_count:,} rows of {selected.objects_count:,} objects are selected")
        brought = MediaFiles(catalog.store, folder, media, max_bytes, skip_missing, places or MediaPlaces(catalog.uri))
        format.write(Export(of_one_enrichment(selected, format, left_out), folder, brought, left_out))
        report = ExportReport(
            selected.objects_count,
            selected.rows_count,
            dict(left_out.items()),
            format.loses,
            brought.failed,
            tuple(brought.failures),
        )
        if brought.is_done:
            folder.finish({"version": selected.catalog_version, **_as_json(report)})
    return report


def of_one_enrichment(selected: SelectedRows, format: ExportFormat, left_out: LeftOut) -> SelectedRows:
    """The rows of the one enrichment that a format takes; all, for a format that takes all.

    Raises SpecError if there is none that it takes, or several.
    """
    if format.capabilities is None:
        return selected
    fitting = [name for name, capability in selected.enrichments.items() if capability in format.capabilities]
    if not fitting:
        takes = ", ".join(sorted(format.capabilities))
        raise SpecError(f"{format.name} takes an enrichment of {takes}; the rows that are selected have none")
    if len(fitting) > 1:
        raise SpecError(f"{format.name} takes one enrichment; choose one with --enrichment: {', '.join(fitting)}")
    for name, count in selected.counts.items():
        if name not in fitting:
            left_out.add(f"rows of {selected.enrichments[name]}", count)
    return replace(selected, only=fitting[0])


def _as_json(report: ExportReport) -> dict[str, Any]:
    return {
        "objects": report.objects,
        "rows": report.rows,
        "left_out": dict(report.left_out),
        "loses": list(report.loses),
        "missing_media": report.failed,
        "missing": [{"uri": uri, "reason": reason} for uri, reason in report.failures],
    }
