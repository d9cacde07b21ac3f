"""What people say is right: saved by compare-and-swap on a revision, with every earlier revision kept.

Two tables: `labels` holds what stands, a key (uri, enrichment) once; `label_history` what was replaced or taken back. A
revision goes into the history before another takes its place, so that a writer killed between the two commits has lost
nothing, and at most one revision stands in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.data_files import KEY, DataFiles
from sightflow.blocks.catalog.rewrite import Rewrite, replace
from sightflow.blocks.catalog.table_writes import append_rows
from sightflow.schemas.failure import SightflowError
from sightflow.schemas.tables.labels import LABELS_SCHEMA, OBJECT_FACTS, RESULT_COLUMNS, checked_labels

Key = tuple[str, str]
"""(uri, enrichment)"""
Label = Mapping[str, Any]
"""A row of `labels`; `revision` and `labelled_at` are set when it is saved."""


@dataclass(frozen=True)
class Conflict:
    """A label that somebody else has saved meanwhile.

    `standing`: what is saved now, None if it was taken back. `given`: what was to be saved, None if it was to be taken
    back. `expected`: the revision that it was made from, 0 for none.
    """

    key: Key
    expected: int
    standing: Label | None
    given: Label | None


class LabelConflict(SightflowError):
    """Somebody else has saved a label since it was read: nothing was written, and both values are in `conflicts`."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        first = conflicts[0]
        uri, enrichment = first.key
        now = (
            f"was saved as revision {first.standing['revision']} by {first.standing['labelled_by']}"
            if first.standing
            else "was taken back"
        )
        more = f"; and {len(conflicts) - 1:,} more labels" if len(conflicts) > 1 else ""
        super().__init__(
            f"the label {enrichment} of {uri} {now} after you read revision {first.expected or 'none'}{more}: "
            "nothing was written; look at both, and save again on the revision that stands"
        )
        self.conflicts = tuple(conflicts)


class Labels:
    """The labels of one catalog. Every method raises StoreError if the storage fails."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    # --- reading --------------------------------------------------------------------------------

    def find(self, uri: str, enrichment: str) -> dict[str, Any] | None:
        """The label that stands, as a row of `LabelRow`; None if there is none."""
        return next(self.catalog.read(_of(self.catalog.scan("labels"), uri, enrichment)).iter_rows(named=True), None)

    def history(self, uri: str, enrichment: str) -> list[dict[str, Any]]:
        """Every revision of a label, the newest first; the first stands, unless `find` says that it was taken back."""
        both = pl.concat([_of(self.catalog.scan(name), uri, enrichment) for name in ("labels", "label_history")])
        rows = self.catalog.read(both).unique("revision", keep="any").sort("revision", descending=True)
        return list(rows.iter_rows(named=True))

    def with_state(self) -> pl.DataFrame:
        """The labels that stand, each with its `state`.

        `current`: the object is as it was labelled, by its version or by the hash of its bytes. `changed`: the catalog
        knows another version of it, and the label is not to be used. `unknown`: the catalog knows no such object.
        """
        labels = self.catalog.read(self.catalog.scan("labels"))
        known = self._newest_versions(labels.select("uri").unique())
        same = (pl.col("object_version") == pl.col("known_version")) | (pl.col("sha256") == pl.col("known_sha256"))
        state = (
            pl.when(pl.col("known_version").is_null())
            .then(pl.lit("unknown"))
            .when(same.fill_null(False))
            .then(pl.lit("current"))
            .otherwise(pl.lit("changed"))
        )
        return labels.join(known, on="uri", how="left", maintain_order="left").select(*LABELS_SCHEMA, state=state)

    def usable(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The labels of objects that are as they were labelled; and those not to be used, each with its `state`.

        The second is what a user has to be told of.
        """
        labels = self.with_state()
        is_current = pl.col("state") == "current"
        return labels.filter(is_current).drop("state"), labels.filter(~is_current)

    def _newest_versions(self, uris: pl.DataFrame) -> pl.DataFrame:
        """What the catalog last knew of objects: `uri`, `known_version`, `known_sha256`."""
        seen = pl.concat(
            [
                self.catalog.scan("enrichments").select("uri", "object_version", "sha256", at="inferred_at"),
                self.catalog.scan("quarantine").select(
                    "uri", "object_version", sha256=pl.lit(None, pl.String()), at="failed_at"
                ),
            ]
        ).join(uris.lazy(), on="uri", how="semi")
        newest = self.catalog.read(seen).sort("at", nulls_last=False).group_by("uri").last()
        return newest.select("uri", known_version="object_version", known_sha256="sha256")

    # --- writing --------------------------------------------------------------------------------

    def save(self, label: Label, expected: int) -> dict[str, Any]:
        """Save one label, if the revision that stands is `expected` (0: none); return it as it stands now.

        A label that says what stands already is saved too: it is somebody's word, with its time. Raises InvalidLabel
        that names the checks it breaks, LabelConflict with both values if somebody else was first.
        """
        return self.save_many([label], {(label["uri"], label["enrichment"]): expected})[0]

    def save_many(self, labels: Sequence[Label], expected: Mapping[Key, int]) -> list[dict[str, Any]]:
        """As `save`, for many keys in one commit: all of them or none. `expected`: 0 for a key that is not in it."""
        if not labels:
            return []
        now = datetime.now(UTC)
        given = [{**label, "revision": 1, "labelled_at": now} for label in labels]
        rows = checked_labels(given)  # before anything is read: with the revision that only the commit knows in place
        committed = self._swap(rows, rows.select(KEY), expected)
        return list(committed.iter_rows(named=True))

    def take_back(self, uri: str, enrichment: str, expected: int) -> None:
        """Remove a label, if the revision that stands is `expected`; its revisions stay in the history.

        Raises LabelConflict if somebody else was first.
        """
        gone = pl.DataFrame({"uri": [uri], "enrichment": [enrichment]})
        self._swap(pl.DataFrame(schema=LABELS_SCHEMA), gone, {(uri, enrichment): expected})

    def restore(
        self, uri: str, enrichment: str, revision: int, expected: int, labelled_by: str
    ) -> dict[str, Any] | None:
        """Undo: make a label what it was at an earlier revision, as a new one; 0 takes it back, and gives None.

        Raises LabelConflict if the revision that stands is not `expected` (0: none), SightflowError if there was never
        such a revision.
        """
        if revision == 0:
            self.take_back(uri, enrichment, expected)
            return None
        earlier = next((row for row in self.history(uri, enrichment) if row["revision"] == revision), None)
        if earlier is None:
            raise SightflowError(f"the label {enrichment} of {uri} never had a revision {revision}; read its history")
        return self.save({**earlier, "origin": "restore", "labelled_by": labelled_by}, expected)

    def _swap(self, rows: pl.DataFrame, keys: pl.DataFrame, expected: Mapping[Key, int]) -> pl.DataFrame:
        """Put rows in the place of what stands at the keys; return them with their revisions."""
        numbered = rows

        def prepare(files: DataFiles) -> Rewrite:
            nonlocal numbered
            found, held = files.find(keys, list(LABELS_SCHEMA))
            standing = found.select(*LABELS_SCHEMA).cast(LABELS_SCHEMA) if found.height else rows.clear()  # type: ignore[arg-type]
            if conflicts := _conflicts(standing, rows, keys, expected):
                raise LabelConflict(conflicts)
            self._remember(standing)
            numbered = self._numbered(rows, standing)
            counts = {"inserted": rows.height - standing.height, "updated": standing.height}
            if rows.is_empty():
                counts = {"deleted": standing.height}
            return replace(files, found, held, numbered, counts)

        self.catalog.rewrite("labels", prepare, int(rows.estimated_size()))
        return numbered

    def _remember(self, standing: pl.DataFrame) -> None:
        """Put revisions into the history before others take their place."""
        if not standing.is_empty():
            size = int(standing.estimated_size())
            self.catalog.commit(lambda: append_rows(self.catalog.open_or_create("label_history"), standing), size)

    def _numbered(self, rows: pl.DataFrame, standing: pl.DataFrame) -> pl.DataFrame:
        """Rows with the revision that follows every one that their label has had."""
        if rows.is_empty():
            return rows
        past = self.catalog.scan("label_history").join(rows.select(KEY).lazy(), on=KEY, how="semi")
        seen = pl.concat([standing.select(*KEY, "revision"), self.catalog.read(past.select(*KEY, "revision"))])
        last = seen.group_by(KEY).agg(last=pl.max("revision"))
        return (
            rows.join(last, on=KEY, how="left", maintain_order="left")
            .with_columns(revision=pl.col("last").fill_null(0) + 1)
            .select(rows.columns)
        )


def label_of_row(row: Mapping[str, Any], result: Mapping[str, Any], labelled_by: str, prefilled: bool = True) -> Label:
    """A label of the object and enrichment of a catalog row.

    `result`: the columns of `RESULT_COLUMNS` that are filled, as `CatalogRow` has them. `prefilled`: whether the person
    began with the row's result, and not with a blank.
    """
    unknown = result.keys() - set(RESULT_COLUMNS)
    if unknown:
        raise TypeError(f"no column of a result: {', '.join(sorted(unknown))}")
    kept = {name: row[name] for name in (*KEY, "capability", *OBJECT_FACTS, "parameters")}
    began_with = {"system": row["system"], "model_id": row["model_id"], "fingerprint": row["fingerprint"]}
    return {
        **kept,
        **{name: result.get(name) for name in RESULT_COLUMNS},
        "origin": "review",
        **{f"prefilled_{name}": value if prefilled else None for name, value in began_with.items()},
        "labelled_by": labelled_by,
    }


def _of(rows: pl.LazyFrame, uri: str, enrichment: str) -> pl.LazyFrame:
    return rows.filter((pl.col("uri") == uri) & (pl.col("enrichment") == enrichment))


def _conflicts(
    standing: pl.DataFrame, rows: pl.DataFrame, keys: pl.DataFrame, expected: Mapping[Key, int]
) -> list[Conflict]:
    """The keys at which another revision stands than is expected."""
    now, new = _by_key(standing.iter_rows(named=True)), _by_key(rows.iter_rows(named=True))
    conflicts = []
    for uri, enrichment in keys.iter_rows():
        key = (uri, enrichment)
        stands = now.get(key)
        if stands is None and key not in new:
            continue  # two have taken it back
        if (stands["revision"] if stands else 0) != expected.get(key, 0):
            conflicts.append(Conflict(key, expected.get(key, 0), stands, new.get(key)))
    return conflicts


def _by_key(rows: Iterable[Label]) -> dict[Key, Label]:
    return {(row["uri"], row["enrichment"]): row for row in rows}
