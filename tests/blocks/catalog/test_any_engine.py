"""Every column of every table can be filtered, by whatever reads Delta and however often files were written anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

import sightflow
from sightflow.blocks.catalog.catalog import MODELS, SCHEMAS, TABLES, Catalog, TableName
from sightflow.blocks.catalog.data_files import KEY
from sightflow.blocks.catalog.labels import Label, Labels, label_of_row
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.sql_views import connect
from sightflow.blocks.catalog.table_writes import append_rows, sql_literal
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.batches import BATCH_ITEM
from sightflow.schemas.tables.labels import RESULT_COLUMNS, checked_labels
from tests.blocks.catalog.test_catalog import held
from tests.schemas.tables.test_catalog import caption, receipt, region, row

DAY = datetime(2026, 1, 1, tzinfo=UTC)
KEYS: dict[TableName, list[str]] = {
    "enrichments": KEY,
    "quarantine": KEY,
    "runs": ["run_id"],
    "labels": KEY,
    "label_history": [*KEY, "revision"],
    "batches": ["batch_id", "step"],
}


def objects(k: int, turn: int) -> list[dict[str, Any]]:
    """Four enrichments of an object, in all columns other than those of its neighbours."""
    shared = {
        "uri": f"s3://b/it's {k:02d}.mp4",
        "object_version": f"v{k % 3}",
        "media_kind": ("image", "video")[k % 2],
        "sha256": f"{k:064x}",
        "width": 40 + k,
        "height": 30 + k,
        "duration": None if k % 3 == 0 else 1.5 + k,
        "frame_rate": None if k % 3 == 0 else 24.0 + k % 2,
        "parameters": f'{{"detail":"{k % 2}"}}',
        "recipe": f"recipe {turn}",
        "system": ("florence-2", "gpt-4o")[k % 2],
        "model_id": f"model {k % 2}",
        "model_revision": ("main", None)[k % 2],
        "route": [["gpt-4o"], ["florence-2", "gpt-4o"]][k % 2],
        "raw_reply": None if k % 4 == 0 else f"said {k}",
        "input_tokens": k,
        "output_tokens": 2 * k,
        "cost_usd": k / 10,
        "schema_version": 1 + k % 2,
        "run_id": f"run {turn}",
        "inferred_at": DAY + timedelta(hours=k),
    }
    box = {edge: float(value) for edge, value in zip(("x_min", "y_min", "x_max", "y_max"), (1, 2, 9, 8), strict=True)}
    point = {"frame_index": k, "seconds": k / 10, **box, "score": 0.5, "gap": False}
    segments = [{"start": 0.0, "end": 1.0, "text": f"part {k}"}] if k % 3 else None
    found = [region(label=("dog", "cat")[k % 2], mask="m" if k % 2 else None, frame_index=k, seconds=k / 10)]
    tracks = [{"track_id": k, "label": "dog", "points": [point]}]
    print_of = f"{turn} of {k:02d}"
    return [
        caption(**shared, text=f"a dog, {k % 5} years old", segments=segments, fingerprint=f"caption {print_of}"),
        row(**shared, regions=found if k % 4 else [], fingerprint=f"objects {print_of}"),
        row(**shared, enrichment="t", capability="object_tracking", regions=None, tracks=tracks, fingerprint=print_of),
        row(
            **shared,
            enrichment="f",
            capability="structured_extraction",
            regions=None,
            extracted=f'{{"age": {k % 5}}}',
            fingerprint=f"fields {print_of}",
        ),
    ]


def failures(k: int, turn: int) -> dict[str, Any]:
    return {
        "uri": f"s3://b/it's {k:02d}.jpg",
        "enrichment": f"name_{k % 2}",
        "capability": (None, "image_captioning", "object_detection")[k % 3],
        "fingerprint": f"print {k} {turn}",
        "object_version": f"v{k % 3}",
        "recipe": f"recipe {k % 3}",
        "cause": ("decode", "timeout", "malformed", "schema")[k % 4],
        "stage": ("fetch", "infer")[k % 2],
        "message": f"message {k}",
        "attempts": 1 + k % 3,
        "raw_reply": None if k % 2 else f"said {k}",
        "system": f"system {k % 2}",
        "model_id": f"model {k % 3}",
        "route": ["gpt-4o"] * (k % 3),
        "cost_usd": k / 10,
        "run_id": f"run {turn}",
        "failed_at": DAY + timedelta(hours=k),
    }


def run(turn: int) -> dict[str, Any]:
    counts = dict.fromkeys(("objects", "planned", "published", "quarantined", "pruned"), turn)
    times = {"started_at": DAY + timedelta(days=turn), "finished_at": DAY + timedelta(days=turn, hours=1)}
    said = {"catalog_version": turn if turn % 2 else None, "report": f"{{{turn}}}"}
    return {"run_id": f"run {turn}", **times, **counts, "cost_usd": turn / 10, **said}


def steps(turn: int) -> list[dict[str, Any]]:
    """The steps of a batch: the first has what it holds, the others what the vendor said."""
    item = dict.fromkeys(BATCH_ITEM.to_schema(), None) | {"custom_id": f"{turn}", "uri": "s3://b/a.jpg", "bytes": 9}
    first = {
        "enrichments": "[]",
        "items": [item] * (turn + 1),
        "vendor_batch": None,
        "input_file": None,
        "message": None,
    }
    later = {"enrichments": None, "items": [], "vendor_batch": "batch_1", "input_file": "file-1", "message": "done"}
    shared = {
        "batch_id": f"{turn:032x}",
        "recorded_at": DAY,
        "owner": f"machine {turn % 2}",
        "run_id": f"run {turn}",
        "system": "gpt-4o",
        "model_id": f"model {turn % 2}",
        "vendor": "OpenAI",
        "requests": turn + 1,
        "result_files": [f"file-{turn}"] * (turn % 3),
    }
    states = ("recorded", "creating", "submitted")
    return [
        {**shared, **(later if k else first), "step": k, "state": state, "reached_at": DAY + timedelta(hours=k)}
        for k, state in enumerate(states)
    ]


def rows_of(turn: int) -> dict[TableName, pl.DataFrame]:
    """What one run of several writes: new rows, and others in the place of those of the run before."""
    keys = range(turn * 4, turn * 4 + 8)
    saved = {"revision": turn + 1, "labelled_at": DAY + timedelta(days=turn)}
    return {
        "enrichments": pl.DataFrame([each for k in keys for each in objects(k, turn)], SCHEMAS["enrichments"]),
        "quarantine": pl.DataFrame([failures(k, turn) for k in keys], SCHEMAS["quarantine"]),
        "runs": pl.DataFrame([run(turn)], SCHEMAS["runs"]),
        "batches": pl.DataFrame(steps(turn), SCHEMAS["batches"]),
        **dict.fromkeys(("labels", "label_history"), checked_labels([{**each, **saved} for each in labels(turn)])),
    }


def labels(turn: int) -> list[Label]:
    """A label of each kind of result, in turn."""
    given = []
    for k in range(turn * 4, turn * 4 + 8):
        made = objects(k, turn)[k % 4] | {"duration": 9.0}
        if made["capability"] == "structured_extraction":
            made |= {name: receipt('{"total": 1}')[name] for name in ("parameters", "extracted")}
        if made["capability"] == "object_detection":
            made["regions"] = [region()] * (k % 3)
        result = {name: made[name] for name in RESULT_COLUMNS}
        given.append(label_of_row(made, result, f"person {k % 2}", prefilled=k % 3 != 0))
    return given


def write_labels(catalog: Catalog, turn: int) -> None:
    """Labels that are new, that take the place of others, and one that goes."""
    standing = catalog.scan("labels").select(*KEY, "revision").collect()
    expected = {(uri, enrichment): revision for uri, enrichment, revision in standing.iter_rows()}
    saved = Labels(catalog).save_many(labels(turn), expected)[-1]
    Labels(catalog).take_back(saved["uri"], saved["enrichment"], saved["revision"])


def long_lived(catalog: Catalog) -> Catalog:
    """Runs that add and replace, objects and cases that go, and files that are joined, more than once."""
    for turn in range(6):
        written = rows_of(turn)
        catalog.publish(written["enrichments"])
        catalog.quarantine(written["quarantine"])
        catalog.record_run(written["runs"])
        write_labels(catalog, turn)
        append_rows(catalog.open_or_create("batches"), written["batches"])
        catalog.prune(held(catalog, [f"s3://b/it's {turn:02d}.mp4"]))
        catalog.resolve(written["quarantine"].select("uri", "enrichment").head(1))
        if turn in (2, 4):
            maintain(catalog, Upkeep(), even_if_not_due=True)
    return catalog


def merged_by_delta_rs(catalog: Catalog) -> Catalog:
    """As earlier versions of this program have written: text is in files as "string view"."""
    for turn in range(2):
        for name, rows in rows_of(turn).items():
            merge = catalog.open_or_create(name).merge(
                rows, " AND ".join(f"t.{key} = s.{key}" for key in KEYS[name]), source_alias="s", target_alias="t"
            )
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
    return catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return long_lived(Catalog.at(tmp_path_factory.mktemp("catalogs") / "now"))


@pytest.fixture(scope="module")
def old_catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return merged_by_delta_rs(Catalog.at(tmp_path_factory.mktemp("catalogs") / "old"))


@dataclass(frozen=True)
class Filter:
    """One condition in the words of each engine."""

    column: str
    polars: pl.Expr
    arrow: ds.Expression
    sql: str


def sql(value: Any) -> str:
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat()}'"
    return sql_literal(value) if isinstance(value, str) else repr(value)


def filters(rows: pl.DataFrame) -> Iterator[Filter]:
    """Conditions on each column that some rows meet."""
    for name, kind in rows.schema.items():
        column, field = pl.col(name), ds.field(name)
        yield Filter(name, column.is_null(), field.is_null(), f"{name} IS NULL")
        yield Filter(name, column.is_not_null(), ~field.is_null(), f"{name} IS NOT NULL")
        if isinstance(kind, pl.List):
            yield Filter(name, column.list.len() > 1, pc.list_value_length(field) > 1, f"len({name}) > 1")
            continue
        values = rows[name].drop_nulls().unique().sort().to_list()
        one, some = values[len(values) // 2], [values[0], values[-1]]
        yield Filter(name, column == one, field == one, f"{name} = {sql(one)}")
        yield Filter(name, column >= one, field >= one, f"{name} >= {sql(one)}")
        yield Filter(name, column.is_in(some), field.isin(some), f"{name} IN ({', '.join(map(sql, some))})")
        if kind == pl.String:
            start = one[: len(one) // 2]
            like = pc.match_like(field, f"{start}%")
            yield Filter(name, column.str.starts_with(start), like, f"{name} LIKE {sql(start + '%')}")


def counted(connection: duckdb.DuckDBPyConnection, table: str, where: Filter) -> int:
    found = connection.execute(f"SELECT count(*) FROM {table} WHERE {where.sql}").fetchone()
    assert found
    return int(found[0])


def content(catalog: Catalog, name: TableName) -> pl.DataFrame:
    rows = catalog.scan(name).collect()
    assert rows.height > 1 and all(rows[column].null_count() < rows.height for column in rows.columns)
    return rows


@pytest.mark.parametrize("name", TABLES)
def test_every_column_can_be_filtered_by_whatever_reads_delta(catalog: Catalog, name: TableName) -> None:
    rows, folder = content(catalog, name), catalog.table_uri(name).removeprefix("file://")
    table = DeltaTable(folder)
    dataset = table.to_pyarrow_dataset()
    ours, bare = connect(catalog), duckdb.connect()
    bare.register("told", dataset)
    read = sightflow.read(catalog.uri, name, output="duckdb")
    for each in filters(rows):
        expected = rows.filter(each.polars).height
        found = {
            "catalog query": counted(ours, name, each),
            "sightflow.read": read.filter(each.sql).aggregate("count(*)").fetchall()[0][0],
            "duckdb": counted(bare, "told", each),
            "pyarrow": dataset.to_table(filter=each.arrow).num_rows,
            "pandas": len(table.to_pandas(filters=each.arrow)),
            "polars": pl.scan_delta(folder).filter(each.polars).collect().height,
        }
        assert found == dict.fromkeys(found, expected), each
    assert all("string_view" not in str(pq.read_schema(file)) for file in table.file_uris())


NESTED = {
    "regions": ("label", "dog"),
    "segments": ("text", "part 7"),
    "tracks": ("label", "dog"),
}


@pytest.mark.parametrize("column", NESTED)
def test_what_is_nested_can_be_filtered(catalog: Catalog, column: str) -> None:
    field, value = NESTED[column]
    rows = content(catalog, "enrichments")
    has_it = pl.col(column).list.eval(pl.element().struct.field(field) == value).list.any()
    expected = rows.filter(has_it).height
    assert expected
    unnested = f"SELECT count(*) FROM (SELECT unnest({column}) AS one FROM enrichments) WHERE one.{field} = '{value}'"
    assert connect(catalog).execute(unnested).fetchall() == [(expected,)]
    folder = catalog.table_uri("enrichments").removeprefix("file://")
    assert pl.scan_delta(folder).filter(has_it).collect().height == expected
    told = DeltaTable(folder).to_pandas()[column]
    assert sum(any(one[field] == value for one in each) for each in told if each is not None) == expected
    flat = pc.list_flatten(DeltaTable(folder).to_pyarrow_table()[column])
    assert pc.sum(pc.equal(pc.struct_field(flat, field), value)).as_py() == expected


@pytest.mark.parametrize("name", TABLES)
def test_a_catalog_that_an_earlier_version_has_written_is_read_all_the_same(
    old_catalog: Catalog, name: TableName
) -> None:
    rows, ours = content(old_catalog, name), connect(old_catalog)
    for each in filters(rows):
        expected = rows.filter(each.polars).height
        assert counted(ours, name, each) == expected, each
        assert old_catalog.scan(name).filter(each.polars).collect().height == expected, each
    assert sightflow.read(old_catalog.uri, name, output="arrow").num_rows == rows.height


def test_so_is_one_in_a_folder_that_a_uri_spells_otherwise(tmp_path: Path) -> None:
    catalog = merged_by_delta_rs(Catalog.at(tmp_path / "ü and 100%"))
    assert catalog.scan("quarantine").filter(pl.col("cause") == "decode").collect().height == 3
    assert connect(catalog).execute("SELECT count(*) FROM quarantine WHERE cause = 'decode'").fetchall() == [(3,)]


def test_rows_of_an_earlier_version_are_replaced_and_removed_and_come_out_plain(tmp_path: Path) -> None:
    catalog = merged_by_delta_rs(Catalog.at(tmp_path / "catalog"))
    before = content(catalog, "enrichments")
    changed = before.with_columns(fingerprint=pl.col("fingerprint") + "!")
    assert catalog.publish(changed).updated == before.height
    assert catalog.prune(held(catalog, [before["uri"][0]])) == 4
    gone = catalog.scan("quarantine").select("uri", "enrichment").collect()
    assert catalog.resolve(gone) == gone.height
    after = content(catalog, "enrichments")
    kept = changed.filter(pl.col("uri") != before["uri"][0])
    assert_frame_equal(after.sort("uri", "enrichment"), kept.sort("uri", "enrichment"))
    assert all("string_view" not in str(pq.read_schema(file)) for file in catalog.table("enrichments").file_uris())


@pytest.mark.parametrize("name", TABLES)
def test_what_a_column_means_stands_in_the_table(catalog: Catalog, name: TableName) -> None:
    table = catalog.table(name)
    comments = {field.name: field.metadata.get("comment") for field in table.schema().fields}
    assert comments == {column: told.description for column, told in MODELS[name].to_schema().columns.items()}
    assert all(comments.values())
    assert table.metadata().description
