"""The index answers as the tables would, follows the catalog's versions, and is read a batch at a time."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.data_files import DataFiles
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.gallery.search.filters import SORTS, Filter
from sightflow.infra.gallery.search.index import MOST_MARKS, CatalogIndex
from sightflow.schemas.failure import SightflowError, StoreError
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA

LABELS = ("cat", "dog", "ünï")
CAPTIONS = ("A dog runs", "a cat; 100%", "nothing_here")


def row(place: int, name: str) -> dict[str, Any]:
    boxes = [
        {"label": label, "x_min": 0.0, "y_min": 0.0, "x_max": 1.0, "y_max": 1.0, "score": (place % 10) / 10}
        for label in LABELS[: place % 4]
    ]
    result: dict[str, Any] = {"capability": "object_detection", "regions": boxes}
    if name == "caption":
        result = {"capability": "image_captioning", "text": CAPTIONS[place % 3]}
    return {
        "uri": f"s3://b/{'a' if place % 2 else 'b'}/{place:03d}.jpg", "enrichment": name, "media_kind": "image",
        "fingerprint": f"{name}-{place:05d}", "object_version": "1-2", "system": f"system-{place % 2}",
        "run_id": f"run-{place % 3}", "cost_usd": place / 100,
        "inferred_at": datetime(2026, 1, 1 + place % 9, tzinfo=UTC), **result,
    }  # fmt: skip


def failure(place: int, fingerprint: str = "other", cause: str = "decode") -> dict[str, Any]:
    known = row(place, "caption")
    kept = {name: known[name] for name in ("uri", "enrichment", "capability", "object_version", "system", "run_id")}
    return {
        **kept,
        "fingerprint": fingerprint,
        "cause": cause,
        "message": "it broke",
        "failed_at": known["inferred_at"],
    }


ROWS = [row(place, name) for place in range(40) for name in ("caption", "objects")]
FAILED = [failure(place) for place in range(38, 44)]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = Catalog(uri=f"file://{tmp_path_factory.mktemp('index')}/c d")
    for part in (ROWS[:50], ROWS[50:]):
        made.publish(pl.DataFrame(part, schema=CATALOG_SCHEMA))
    made.quarantine(pl.DataFrame(FAILED, schema=QUARANTINE_SCHEMA))
    return made


@pytest.fixture(scope="module")
def index(catalog: Catalog) -> Iterator[CatalogIndex]:
    made = CatalogIndex(catalog)
    made.read_all()
    yield made
    made.close()


def holds(wanted: Filter, each: dict[str, Any]) -> bool:
    """The filter in plain words, over a row of either table."""
    text = each.get("text") or each.get("message") or ""
    day = f"{each.get('inferred_at') or each.get('failed_at'):%Y-%m-%d}"
    regions = each.get("regions") or ()
    bounds = [float(bound) for bound in (wanted.least, wanted.most) if bound]
    return (
        all(
            not getattr(wanted, name) or each.get(column) == getattr(wanted, name)
            for name, column in {"enrichment": "enrichment", "system": "system", "cause": "cause", "run": "run_id",
                                 "capability": "capability", "kind": "media_kind"}.items()
        )
        and each["uri"].startswith(wanted.prefix)
        and all(word in text.lower() or word in each["uri"].lower() for word in wanted.q.lower().split())
        and (not wanted.state or (wanted.state == "quarantined") == ("cause" in each))
        and (not wanted.since or day >= wanted.since)
        and (not wanted.until or day <= wanted.until)
        and (
            not (wanted.label or bounds)
            or any(
                (not wanted.label or region["label"] == wanted.label)
                and (not wanted.least or region["score"] >= float(wanted.least))
                and (not wanted.most or region["score"] <= float(wanted.most))
                for region in regions
            )
        )
    )  # fmt: skip


FILTERS = st.builds(
    Filter,
    q=st.sampled_from(["", "dog", "DOG runs", "100%", "_", "broke", "007"]),
    enrichment=st.sampled_from(["", "", "caption", "objects", "none"]),
    capability=st.sampled_from(["", "", "object_detection"]),
    label=st.sampled_from(["", "", *LABELS, "'"]),
    system=st.sampled_from(["", "", "system-1"]),
    cause=st.sampled_from(["", "", "", "decode"]),
    kind=st.sampled_from(["", "", "image"]),
    state=st.sampled_from(["", "", "published", "quarantined"]),
    prefix=st.sampled_from(["", "", "s3://b/a/", "s3://b/%"]),
    run=st.sampled_from(["", "", "run-1"]),
    least=st.sampled_from(["", "", "0.3"]),
    most=st.sampled_from(["", "", "0.7"]),
    since=st.sampled_from(["", "", "2026-01-03"]),
    until=st.sampled_from(["", "", "2026-01-06"]),
    sort=st.sampled_from(list(SORTS)),
)


@given(FILTERS)
def test_a_filter_finds_what_the_tables_hold(index: CatalogIndex, wanted: Filter) -> None:
    found = {each["uri"] for each in [*ROWS, *FAILED] if holds(wanted, each)}
    pages = [uri for offset in range(0, 60, 7) for uri in index.page(wanted, offset, 7)]
    assert len(pages) == len(set(pages)) and set(pages) == found
    assert index.count(wanted) == len(found)
    if wanted.sort in ("uri", "-uri"):
        assert pages == sorted(found, reverse=wanted.sort == "-uri")


@given(st.dictionaries(st.sampled_from([*Filter.__dataclass_fields__, "page"]), st.text(max_size=30)))
def test_whatever_an_address_says_is_a_filter(index: CatalogIndex, query: dict[str, str]) -> None:
    wanted = Filter.of(query)
    assert Filter.of(wanted.query) == wanted
    index.page(wanted, 0, 3)


def test_what_is_committed_is_seen(tmp_path: Path) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/c")
    catalog.publish(pl.DataFrame(ROWS[:4], schema=CATALOG_SCHEMA))
    catalog.quarantine(pl.DataFrame([failure(30), failure(31)], schema=QUARANTINE_SCHEMA))
    index = CatalogIndex(catalog)
    index.read_all()
    assert index.count(Filter()) == 4 and index.count(Filter(state="quarantined")) == 2
    catalog.publish(
        pl.DataFrame([{**ROWS[0], "fingerprint": "changed-it", "text": "new words"}], schema=CATALOG_SCHEMA)
    )
    catalog.publish(
        pl.DataFrame([{**row(30, "caption"), "fingerprint": "other"}], schema=CATALOG_SCHEMA)  # what failed is mended
    )
    index.read_all()
    assert index.page(Filter(q="new words"), 0, 9) == [ROWS[0]["uri"]]
    assert index.page(Filter(q="dog runs", prefix=ROWS[0]["uri"]), 0, 9) == []
    assert index.page(Filter(state="quarantined"), 0, 9) == [failure(31)["uri"]]
    catalog.prune(pl.DataFrame(ROWS[1:2]).select("uri", "enrichment", "fingerprint"))
    index.read_all()
    assert len(index.rows([ROWS[1]["uri"]])[ROWS[1]["uri"]]) == 1
    index.close()


def test_a_row_of_very_many_regions_costs_a_page_no_more_than_a_full_one(tmp_path: Path) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/catalog")
    crowd = {**row(1, "objects"), "regions": row(1, "objects")["regions"] * 5000}
    catalog.publish(pl.DataFrame([crowd, row(3, "objects")], schema=CATALOG_SCHEMA))
    index = CatalogIndex(catalog)
    index.read_all()
    found = index.rows([crowd["uri"], row(3, "objects")["uri"]])
    index.close()
    assert [len(rows[0]["marks"]) for rows in found.values()] == [MOST_MARKS, 3]


@pytest.mark.parametrize("is_first", [True, False])
def test_what_could_not_be_read_to_its_end_is_read_again_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/catalog")
    catalog.publish(pl.DataFrame([row(place, "objects") for place in (1, 3)], schema=CATALOG_SCHEMA))
    index = CatalogIndex(catalog)
    if not is_first:
        index.read_all()
        catalog.publish(pl.DataFrame([row(place, "objects") for place in (5, 7)], schema=CATALOG_SCHEMA))
        catalog.publish(pl.DataFrame([row(9, "caption")], schema=CATALOG_SCHEMA))
    read, tries = DataFiles.batches, list[int]()

    def breaks(self: DataFiles, *given: Any) -> Iterator[Any]:
        tries.append(1)
        yield from read(self, *given)
        if len(tries) == (1 if is_first else 2):
            raise StoreError("the storage is away")

    monkeypatch.setattr(DataFiles, "batches", breaks)
    with pytest.raises(SightflowError, match="away"):
        index.read_all()
    index.read_all()
    assert index.ask("SELECT count(*), count(DISTINCT uri) FROM rows", []) == [(2, 2) if is_first else (5, 5)]
    index.close()


def test_an_index_that_is_being_read_is_closed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/catalog")
    catalog.publish(pl.DataFrame([row(1, "objects")], schema=CATALOG_SCHEMA))
    read, begun = DataFiles.batches, threading.Event()

    def for_ever(self: DataFiles, *given: Any) -> Iterator[Any]:
        while True:
            yield from read(self, *given)
            begun.set()

    monkeypatch.setattr(DataFiles, "batches", for_ever)
    index = CatalogIndex(catalog)
    index.follow(patience=0)
    assert begun.wait(60)
    index.close()


def test_an_empty_catalog_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    catalog = Catalog(uri=f"file://{tmp_path}/c")
    index = CatalogIndex(catalog)
    index.read_all()
    assert (index.count(Filter()), index.progress.done) == (0, True)
    catalog.publish(pl.DataFrame(ROWS[:4], schema=CATALOG_SCHEMA))
    for file in (tmp_path / "c/enrichments").rglob("*.parquet"):
        file.write_bytes(b"PAR1 no more")
    index._looked_at = 0.0
    assert index.follow(5).done
    index._looked_at = 0.0
    index.follow(5)
    assert index.progress.error is not None
    index.close()


def test_a_part_of_a_local_file_is_read_at_its_version(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(bytes(range(100)))
    store = ObjectStore()
    uri, version = store.inventory([f"file://{tmp_path}/*"]).select("uri", "object_version").row(0)
    assert store.read_part((uri, version), 10, 5) == bytes(range(10, 15))
    assert store.read_part((uri, version), 98, 50) == bytes([98, 99])
    assert store.read_part((uri, version), 100, 50) == b""
    (tmp_path / "f.bin").write_bytes(bytes(100))
    changed = store.read_part((uri, version), 10, 5)
    assert not isinstance(changed, bytes) and changed.cause == "changed"
