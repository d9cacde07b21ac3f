"""What `sightflow catalog query` prints: strict JSON, CSV that no spreadsheet runs, a table, and an end to all."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.cli.query import csv_cell, distinct, json_text
from tests.blocks.catalog.test_catalog import held, rows
from tests.command_line import app
from tests.e2e.test_command_line import sightflow


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("query") / "catalog"
    said = pl.Series(["=cmd|' /C calc'!A0", "a dog", None, "-5"])
    Catalog.at(folder).publish(rows(range(4)).with_columns(text=said))
    return str(folder)


def ask(catalog: str, sql: str, *options: str) -> Any:
    return CliRunner().invoke(app, ["catalog", "query", catalog, sql, *options])


def strictly(line: str) -> Any:
    """Parse JSON as RFC 8259 has it: no NaN, and no name twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(line, object_pairs_hook=once, parse_constant=refuse)


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("'nan'::DOUBLE", None),
        ("'-inf'::FLOAT", None),
        ("[1.5::DOUBLE, 'inf'::DOUBLE, NULL]", [1.5, None, None]),
        ("{'a': {'b': ['nan'::DOUBLE]}}", {"a": {"b": [None]}}),
        ("1.25::DECIMAL(5, 2)", 1.25),
        ("12345678901234567890::DECIMAL(38, 0)", 12345678901234567890),
        ("170141183460469231731687303715884105727::HUGEINT", 2**127 - 1),
        ("TIMESTAMP '2026-01-02 03:04:05.5'", "2026-01-02T03:04:05.500000"),
        ("TIMESTAMPTZ '2026-01-02 03:04:05+00'", "2026-01-02T03:04:05+00:00"),
        ("DATE '2026-01-02'", "2026-01-02"),
        ("TIME '03:04:05'", "03:04:05"),
        ("'\\xAA\\x00'::BLOB", "qgA="),
        ("MAP {1: 'a', 2: 'b'}", {"1": "a", "2": "b"}),
        ("[1, 2]::INTEGER[2]", [1, 2]),
        ("true", True),
        ("'42d5c5a0-0000-0000-0000-000000000000'::UUID", "42d5c5a0-0000-0000-0000-000000000000"),
        ("chr(8232) || chr(0) || '\"'", '\u2028\0"'),
    ],
)
def test_every_value_is_strict_json(catalog: str, sql: str, value: Any) -> None:
    asked = ask(catalog, f"SELECT {sql} AS it", "--format", "json")
    assert strictly(asked.stdout.removesuffix("\n")) == {"it": value}


def test_a_name_stands_once(catalog: str) -> None:
    sql = "SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a"
    assert strictly(ask(catalog, sql, "--format", "json").stdout) == {"a": 1, "a_3": 2, "a_2": 3, "a_4": 4}
    assert ask(catalog, sql, "--format", "csv").stdout.splitlines()[0] == "a,a_3,a_2,a_4"
    joined = "SELECT * FROM enrichments x JOIN enrichments y USING (uri) ORDER BY uri LIMIT 1"
    assert strictly(ask(catalog, joined, "--format", "json").stdout)["width_2"] == 10


@given(st.lists(st.sampled_from(["a", "a_2", "a_3", "b", "A"]), max_size=8))
def test_names_are_told_apart_and_those_that_are_apart_stay(names: list[str]) -> None:
    apart = distinct(names)
    assert len(set(apart)) == len(names)
    assert all(given == kept for given, kept in zip(names, apart, strict=True) if names.count(given) == 1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_whatever_a_row_holds_is_strict_json_and_no_formula(value: Any) -> None:
    strictly(json_text(value))
    cell = csv_cell(value)
    assert isinstance(cell, int | float | None) or cell.lstrip()[:1] not in {*"=+-@＝＋－＠"}


def test_a_table_can_be_read_back_from_csv(catalog: str) -> None:
    sql = (
        "SELECT text, -1.5::DOUBLE AS n, -2 AS i, 'nan'::DOUBLE AS none, [{'a': 'x, \"y\"'}] AS nested, "
        "'＝1' AS wide, e'\\t=1' AS tab, ' @x' AS blank, '+1 (555)' AS phone, true AS yes FROM enrichments ORDER BY uri"
    )
    read = list(csv.DictReader(io.StringIO(ask(catalog, sql, "--format", "csv").stdout)))
    assert [row["text"] for row in read] == ["'=cmd|' /C calc'!A0", "a dog", "", "'-5"]
    assert (read[0]["n"], read[0]["i"], read[0]["none"], read[0]["yes"]) == ("-1.5", "-2", "", "true")
    assert strictly(read[0]["nested"]) == [{"a": 'x, "y"'}]
    assert [read[0][name] for name in ("wide", "tab", "blank", "phone")] == ["'＝1", "'\t=1", "' @x", "'+1 (555)"]
    head = ask(catalog, 'SELECT 1 AS "=1+1"', "--format", "csv").stdout.splitlines()[0]
    assert head == "'=1+1"


def test_a_table_shows_what_is_like_a_box_and_is_none_and_no_more_rows_than_a_person_reads(catalog: str) -> None:
    odd = ask(catalog, "SELECT [{'x_min': NULL, 'label': 'a'}], [{'x_min': 1.0::DOUBLE}], {'x_min': 2}")
    assert odd.exit_code == 0 and "1 rows" in odd.stdout
    many = ask(catalog, "SELECT * FROM range(100000000)")
    assert "the first 1,000 rows; --format json or csv gives all" in many.stdout
    assert "1,000 rows" in ask(catalog, "SELECT * FROM range(1000)").stdout.splitlines()[-1]


def test_a_query_without_an_end_has_one(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightflow.infra.cli.query._GRACE_SECONDS", 200.0)  # this process does not end with it
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    stopped = ask(catalog, endless, "--timeout", "1")
    assert stopped.exit_code == 2 and "took longer than 1 seconds; narrow it, or raise --timeout" in stopped.stderr
    # DuckDB does not look up from one call of a function.
    deaf = "SELECT sum(levenshtein(repeat('a', 400000), repeat('b', 400000)))"
    ended = sightflow("catalog", "query", catalog, deaf, "--timeout", "1", real=True)
    assert ended.returncode == 2 and "raise --timeout" in ended.stderr and ended.stdout == ""


@pytest.mark.parametrize("sql", ["", " ", ";"])
def test_a_query_that_asks_for_nothing_is_refused(catalog: str, sql: str) -> None:
    done = CliRunner().invoke(app, ["catalog", "query", catalog, sql])
    assert done.exit_code == 2 and "Traceback" not in done.output


def test_the_view_is_printed_for_other_engines(catalog: str, tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["catalog", "view", catalog])
    assert printed.exit_code == 0
    assert "any_value(text) FILTER (WHERE enrichment = 'caption') AS \"caption\"" in printed.stdout
    missing = CliRunner().invoke(app, ["catalog", "view", str(tmp_path)])
    assert missing.exit_code == 1 and "there is no catalog" in missing.stderr


def test_the_history_counts_the_rows_of_each_commit(tmp_path: Path) -> None:
    catalog = Catalog.at(tmp_path / "catalog")
    catalog.publish(rows(range(7)))
    catalog.publish(rows(range(2, 12), "two"))
    catalog.prune(held(catalog, ["s3://b/0003.jpg"]))
    shown = CliRunner().invoke(app, ["catalog", "history", str(tmp_path / "catalog")]).stdout
    counts = [line.split()[-4:-1] for line in shown.splitlines() if "WRITE" in line]
    assert counts == [["0", "0", "1"], ["5", "5", "0"], ["7", "0", "0"]]
