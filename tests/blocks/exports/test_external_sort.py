"""Rows come out sorted whatever their order, and each once, in ranges that one machine can hold."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.exports import external_sort
from sightflow.blocks.exports.external_sort import ranges_of, sorted_rows

KEYS = st.lists(st.tuples(st.text(max_size=3), st.sampled_from("abc")), max_size=40, unique=True)


@settings(max_examples=25)
@given(KEYS, st.lists(st.text(max_size=2), max_size=4, unique=True))
def test_rows_of_any_order_come_out_sorted_and_each_once(keys: list[tuple[str, str]], cuts: list[str]) -> None:
    frame = pl.DataFrame(keys, schema={"uri": pl.String(), "enrichment": pl.String()}, orient="row")
    with TemporaryDirectory() as place:
        found = list(sorted_rows(frame.iter_slices(7), sorted(cuts), Path(place)))
    rows = [row for part in found for row in part.iter_rows()]
    assert rows == sorted(keys, key=lambda key: (key[0].encode(), key[1]))
    uris = [set(part["uri"]) for part in found]
    assert sum(map(len, uris)) == len(set().union(*uris)), "an object is in one range"


def test_ranges_are_about_even_and_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "_ROWS_A_RANGE", 100)
    uris = [f"s3://b/{k:05d}" for k in range(5000)]
    cuts = ranges_of(uris[::7], 5000)
    assert len(cuts) == 49 and cuts == sorted(cuts)
    sizes = [sum(low <= uri < high for uri in uris) for low, high in pairwise(cuts)]
    assert max(sizes) < 200
    assert ranges_of(uris, 99) == [] and len(ranges_of(uris, 10**9)) == 255
    assert ranges_of(["same"] * 9, 900) == ["same"]
