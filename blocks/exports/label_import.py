"""Labels from files of other tools into the table `labels`: each object found in the catalog, each label checked
first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, cast

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Key, Label, Labels
from sightflow.blocks.exports.label_files import LABEL_FILES
from sightflow.blocks.exports.label_files.found import FoundLabel, WrongLabel, without_suffix
from sightflow.schemas.capability import Capability
from sightflow.schemas.failure import SpecError
from sightflow.schemas.tables.labels import OBJECT_FACTS, RESULT_COLUMNS, InvalidLabel, checked_labels

Reader = Callable[[Path], Iterator[FoundLabel]]
_AT_ONCE = 2000
_MOST_NAMED = 20
_EPOCH = pl.datetime(1970, 1, 1, time_zone="UTC")
_PREFILLED = ("prefilled_system", "prefilled_model_id", "prefilled_fingerprint")


@dataclass
class ImportReport:
    """What came of the labels in the files. `problems`: the first of them, in words."""

    saved: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def tell(self, kind: str, what: str) -> None:
        """Count one that is not imported, and name it if it is among the first."""
        self.counts[kind] += 1
        if len(self.problems) < _MOST_NAMED:
            self.problems.append(what)


@dataclass(frozen=True)
class ImportOptions:
    """`enrichment`: of labels whose format names none. `root`: the URI below which files have their names; empty, they
    are found by the end of a URI. `replace`: whether a label takes the place of one that stands.
    """

    labelled_by: str
    enrichment: str = ""
    root: str = ""
    replace: bool = False


def label_reader(name: str) -> Reader:
    """The reader of a format. Raises SpecError that lists them."""
    if name not in LABEL_FILES:
        raise SpecError(f"--format {name} is not known; allowed: {', '.join(LABEL_FILES)}")
    module, _, function = LABEL_FILES[name].partition(":")
    return cast("Reader", getattr(import_module(module), function))


def import_labels(catalog: Catalog, path: Path, format: str, options: ImportOptions) -> ImportReport:
    """Save the labels of a file or folder; nothing is written unless every label that can be used passes its checks.

    Not imported, but counted: objects that the catalog does not know or knows several of, labels of another version of
    an object, and, unless they are to be replaced, those that have a label. Raises InvalidLabel with what is wrong,
    SpecError if an enrichment is missing, UnreadableLabels if the files are not of the format, LabelConflict if
    somebody else saves meanwhile, StoreError if the storage fails.
    """
    found, importer = label_reader(format), _Importer(catalog, options, f"import {format}")
    wrong = ImportReport()
    for batch in _batches(found(path)):  # nothing is written before all of it was seen
        importer.rows(batch, ImportReport(), wrong)
    if wrong.counts:
        raise InvalidLabel(
            f"{sum(wrong.counts.values()):,} labels in {path} are wrong, and none was imported: "
            + "; ".join(wrong.problems),
            [],
        )
    report, labels = ImportReport(), Labels(catalog)
    for batch in _batches(found(path)):
        rows, expected = importer.rows(batch, report, wrong)
        report.saved += len(labels.save_many(rows, expected))
    return report


def _batches(found: Iterable[FoundLabel]) -> Iterator[list[FoundLabel]]:
    remaining = iter(found)
    while batch := list(islice(remaining, _AT_ONCE)):
        yield batch


class _Importer:
    """Makes rows of found labels by what the catalog knows."""

    def __init__(self, catalog: Catalog, options: ImportOptions, origin: str) -> None:
        self._catalog, self._options, self._origin = catalog, options, origin
        rows = catalog.scan("enrichments").select("enrichment", "capability", "parameters", "inferred_at")
        newest = catalog.read(rows.sort("inferred_at", nulls_last=False).group_by("enrichment").last())
        self._asked = {row["enrichment"]: row for row in newest.iter_rows(named=True)}

    def rows(
        self, batch: Sequence[FoundLabel], report: ImportReport, wrong: ImportReport
    ) -> tuple[list[Label], dict[Key, int]]:
        """The labels that can be saved, each with the revision that it replaces; others are told."""
        facts = self._facts(batch, report)
        labels: dict[Key, Label] = {}
        places: dict[Key, str] = {}
        for place, about in facts.items():
            found = batch[place]
            if found.says_nothing and not self._takes_nothing:
                report.tell(
                    "say nothing, and not of what",
                    f"{found.place}: an annotation without results; with --enrichment it says that nothing is there",
                )
                continue
            name = self._enrichment(found)
            asked = {column: self._asked[name][column] for column in ("capability", "parameters")}
            known = {**about, **asked}
            key = (known["uri"], name)
            try:
                result = found.read(known)
            except WrongLabel as error:
                wrong.tell("wrong", f"{found.place}: {error}")
                continue
            if key in labels:
                wrong.tell("wrong", f"{found.place}: another label of {known['uri']}, beside {places[key]}")
                continue
            labels[key] = self._label(known, name, result)
            places[key] = found.place
        self._check(labels, places, wrong)
        return self._free(labels, report)

    def _label(self, known: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> Label:
        kept = {column: known[column] for column in ("uri", "capability", *OBJECT_FACTS, "parameters")}
        filled = {column: result.get(column) for column in RESULT_COLUMNS}
        by = {"origin": self._origin, **dict.fromkeys(_PREFILLED), "labelled_by": self._options.labelled_by}
        return {**kept, "enrichment": name, **filled, **by}

    def _enrichment(self, found: FoundLabel) -> str:
        name = self._options.enrichment or found.enrichment
        if name not in self._asked:
            there = ", ".join(sorted(self._asked)) or "none"
            missing = f"the catalog has no enrichment {name}" if name else "the file names no enrichment"
            raise SpecError(f"{missing}; say which with --enrichment: {there}")
        return name

    @property
    def _takes_nothing(self) -> bool:
        """Whether a label that says nothing is one: of the enrichment that is named, that nothing was found."""
        asked = self._asked.get(self._options.enrichment)
        return asked is not None and Capability(asked["capability"]).gives_places

    def _check(self, labels: Mapping[Key, Label], places: Mapping[Key, str], wrong: ImportReport) -> None:
        from datetime import UTC, datetime

        stamp = {"revision": 1, "labelled_at": datetime.now(UTC)}
        keys = list(labels)
        try:
            checked_labels([{**labels[key], **stamp} for key in keys])
        except InvalidLabel as error:
            for place, check in error.problems:
                wrong.tell("wrong", f"{places[keys[place]]}: {check}")

    def _free(self, labels: Mapping[Key, Label], report: ImportReport) -> tuple[list[Label], dict[Key, int]]:
        """Those whose key has no label, or all, with the revisions that stand."""
        keys = pl.DataFrame(list(labels), schema={"uri": pl.String(), "enrichment": pl.String()}, orient="row")
        standing = self._catalog.scan("labels").join(keys.lazy(), on=["uri", "enrichment"], how="semi")
        revisions = {
            (uri, name): revision
            for uri, name, revision in self._catalog.read(standing.select("uri", "enrichment", "revision")).iter_rows()
        }
        if not self._options.replace:
            for uri, name in revisions:
                report.tell("have a label already", f"{name} of {uri} has a label; --replace puts this in its place")
            labels = {key: label for key, label in labels.items() if key not in revisions}
        return list(labels.values()), revisions

    # --- which object ---------------------------------------------------------------------------

    def _facts(self, batch: Sequence[FoundLabel], report: ImportReport) -> dict[int, dict[str, Any]]:
        """What the catalog knows of the object of each label, by its place in the batch."""
        wanted = pl.DataFrame(
            {
                "place": range(len(batch)),
                "name": [self._name(found) for found in batch],
                "bare": [found.without_suffix for found in batch],
            },
            schema={"place": pl.Int64(), "name": pl.String(), "bare": pl.Boolean()},
        ).with_columns(key=pl.col("name").str.split("/").list.last(), whole=pl.col("name").str.contains("://"))
        pairs = self._candidates.join(wanted, on="key")
        matching: dict[int, set[str]] = {}
        for row in pairs.iter_rows(named=True):
            uri = without_suffix(row["uri"]) if row["bare"] else row["uri"]
            if uri == row["name"] or (not row["whole"] and uri.endswith(f"/{row['name']}")):
                matching.setdefault(row["place"], set()).add(row["uri"])
        one = {place: next(iter(found)) for place, found in matching.items() if len(found) == 1}
        known = self._newest(list(set(one.values())))
        facts = {}
        for place, found in enumerate(batch):
            if place not in one:
                several = len(matching.get(place, ()))
                why = f"{several} objects end so; say below which URI with --root" if several else "not in the catalog"
                report.tell("are of no object of the catalog", f"{found.place}: {found.object}: {why}")
            elif found.object_version not in (None, known[one[place]]["object_version"]):
                report.tell("are of an object that has changed", f"{found.place}: {one[place]} has changed since")
            else:
                facts[place] = known[one[place]]
        return facts

    @cached_property
    def _candidates(self) -> pl.DataFrame:
        """Every `uri` of the catalog, with the last part of it as `key`, and once more without its suffix."""
        uris = self._catalog.read(self._catalog.scan("enrichments").select("uri").unique())
        last = pl.col("uri").str.split("/").list.last()
        bare = last.str.replace(r"(.)\.[^.]*$", "${1}")
        return pl.concat([uris.select("uri", key=last), uris.select("uri", key=bare)]).unique()

    def _name(self, found: FoundLabel) -> str:
        name = found.object.encode("utf-8", "backslashreplace").decode()  # JSON may hold what is no text
        if "://" in name or not self._options.root:
            return name
        return f"{self._options.root.rstrip('/')}/{name}"

    def _newest(self, uris: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the newest row says of each object."""
        rows = self._catalog.scan("enrichments").filter(pl.col("uri").is_in(uris))
        newest = self._catalog.read(rows.select("uri", *OBJECT_FACTS, "inferred_at"))
        newest = newest.sort("inferred_at", nulls_last=False).group_by("uri").last()
        return {row["uri"]: row for row in newest.iter_rows(named=True)}
