"""What a person says is right is saved once, checked as rows are, never lost to another, and can be undone."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.labels import Label, LabelConflict, Labels, label_of_row
from sightflow.blocks.catalog.maintenance import maintain
from sightflow.blocks.catalog.sql_views import connect
from sightflow.schemas.failure import SightflowError
from sightflow.schemas.policy import Upkeep
from sightflow.schemas.tables.catalog import CATALOG_SCHEMA
from sightflow.schemas.tables.labels import InvalidLabel, checked_labels
from sightflow.schemas.tables.quarantine import QUARANTINE_SCHEMA
from tests.schemas.tables.test_catalog import MASK, answer, caption, receipt, region, row

ROW = row()
KEY = (ROW["uri"], ROW["enrichment"])


def boxes(*labels: str, by: str = "ann", of: dict[str, Any] = ROW) -> Label:
    return label_of_row(of, {"regions": [region(label=label, score=None) for label in labels]}, by)


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    catalog = Catalog.at(tmp_path / "catalog")
    catalog.publish(pl.DataFrame([ROW], schema=CATALOG_SCHEMA))
    return Labels(catalog)


def words(label: Label | None) -> list[str] | None:
    return None if label is None else [each["label"] for each in label["regions"]]


def test_a_label_is_found_as_it_was_saved_with_its_revision_and_its_time(labels: Labels) -> None:
    assert labels.find(*KEY) is None
    before = datetime.now(UTC)
    saved = labels.save(boxes("dog", "cat"), expected=0)
    assert labels.find(*KEY) == saved
    assert saved["revision"] == 1 and words(saved) == ["dog", "cat"] and saved["labelled_by"] == "ann"
    assert before <= saved["labelled_at"] <= datetime.now(UTC)
    assert (saved["prefilled_system"], saved["prefilled_fingerprint"]) == (ROW["system"], ROW["fingerprint"])
    assert {name: saved[name] for name in ("object_version", "sha256", "width", "height")} == {
        name: ROW[name] for name in ("object_version", "sha256", "width", "height")
    }


def test_a_label_that_was_begun_with_a_blank_names_no_model(labels: Labels) -> None:
    saved = labels.save(label_of_row(ROW, {"regions": []}, "ann", prefilled=False), 0)
    assert [saved[name] for name in saved if name.startswith("prefilled")] == [None] * 3


def test_the_second_of_two_who_save_is_told_both_values_and_writes_nothing(labels: Labels) -> None:
    labels.save(boxes("dog"), 0)
    labels.save(boxes("cat", by="bob"), 1)
    for expected in (0, 1, 3):
        with pytest.raises(LabelConflict, match="saved as revision 2 by bob") as caught:
            labels.save(boxes("horse", by="carol"), expected)
        (conflict,) = caught.value.conflicts
        assert (conflict.key, conflict.expected) == (KEY, expected)
        assert (words(conflict.standing), words(conflict.given)) == (["cat"], ["horse"])
    assert words(labels.find(*KEY)) == ["cat"]
    assert labels.save(boxes("horse"), 2)["revision"] == 3


def test_of_many_that_are_saved_together_one_conflict_stops_all(labels: Labels) -> None:
    others = [row(uri=f"s3://b/{k}.jpg") for k in range(3)]
    labels.save(boxes("dog", of=others[1]), 0)
    with pytest.raises(LabelConflict) as caught:
        labels.save_many([boxes("cat", of=each) for each in others], {})
    assert [conflict.key[0] for conflict in caught.value.conflicts] == ["s3://b/1.jpg"]
    assert labels.catalog.scan("labels").collect().height == 1
    saved = labels.save_many([boxes("cat", of=each) for each in others], {("s3://b/1.jpg", "objects"): 1})
    assert [each["revision"] for each in saved] == [1, 2, 1]


def test_people_who_save_at_once_lose_no_word(labels: Labels) -> None:
    """Each saves on what they last saw; what is refused is looked at and saved again."""
    errors: list[BaseException] = []

    def person(name: str) -> None:
        try:
            for turn in range(4):
                while True:
                    seen = labels.find(*KEY)
                    try:
                        labels.save(
                            boxes(*(words(seen) or []), f"{name}{turn}", by=name), seen["revision"] if seen else 0
                        )
                        break
                    except LabelConflict:
                        continue
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=person, args=(name,)) for name in ("ann", "bob", "carol")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    said = words(labels.find(*KEY)) or []
    assert sorted(said) == sorted(f"{name}{turn}" for name in ("ann", "bob", "carol") for turn in range(4))
    assert [each["revision"] for each in labels.history(*KEY)] == list(range(12, 0, -1))
    assert [words(each) for each in reversed(labels.history(*KEY))] == [said[: k + 1] for k in range(12)]


def test_every_change_can_be_undone_the_first_one_too(labels: Labels) -> None:
    labels.save(boxes("dog"), 0)
    labels.save(boxes("cat"), 1)
    undone = labels.restore(*KEY, revision=1, expected=2, labelled_by="bob")
    assert undone is not None
    assert (undone["revision"], words(undone), undone["labelled_by"], undone["origin"]) == (
        3,
        ["dog"],
        "bob",
        "restore",
    )
    with pytest.raises(LabelConflict):
        labels.restore(*KEY, revision=0, expected=2, labelled_by="bob")
    assert labels.restore(*KEY, revision=0, expected=3, labelled_by="bob") is None
    assert labels.find(*KEY) is None
    back = labels.restore(*KEY, revision=2, expected=0, labelled_by="bob")
    assert back is not None and back["revision"] == 4 and words(back) == ["cat"]
    assert [words(each) for each in labels.history(*KEY)] == [["cat"], ["dog"], ["cat"], ["dog"]]
    with pytest.raises(SightflowError, match="never had a revision 9"):
        labels.restore(*KEY, revision=9, expected=4, labelled_by="bob")


def test_what_is_taken_back_while_another_saves_is_a_conflict_and_twice_is_none(labels: Labels) -> None:
    labels.save(boxes("dog"), 0)
    labels.save(boxes("cat"), 1)
    with pytest.raises(LabelConflict, match="saved as revision 2"):
        labels.take_back(*KEY, expected=1)
    labels.take_back(*KEY, expected=2)
    labels.take_back(*KEY, expected=2)
    with pytest.raises(LabelConflict, match="was taken back") as caught:
        labels.save(boxes("horse"), 2)
    assert caught.value.conflicts[0].standing is None
    assert labels.save(boxes("horse"), 0)["revision"] == 3, "a number stands for one value for ever"


@settings(max_examples=6)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["save", "back", "stale"])), min_size=2, max_size=5))
def test_whatever_is_done_each_label_and_its_history_are_what_was_said(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    labels = Labels(Catalog.at(tmp_path_factory.mktemp("labels")))
    standing: dict[str, int] = {}
    said: dict[str, list[list[str]]] = {}
    for number, (name, action) in enumerate(steps):
        of, key = row(uri=f"s3://b/{name}"), (f"s3://b/{name}", "objects")
        expected = standing.get(name, 0)
        if action == "save":
            labels.save(boxes(str(number), of=of), expected)
            said.setdefault(name, []).append([str(number)])
            standing[name] = len(said[name])
        elif action == "back":
            labels.take_back(*key, expected)
            standing.pop(name, None)
        else:
            with pytest.raises(LabelConflict):
                labels.save(boxes("stale", of=of), expected + 1)
        assert words(labels.find(*key)) == (said[name][-1] if name in standing else None)
        assert [words(each) for each in reversed(labels.history(*key))] == said.get(name, [])


def test_a_label_of_an_object_that_has_changed_is_told_and_not_used(labels: Labels) -> None:
    same_bytes = row(uri="s3://b/touched.jpg", sha256="c" * 64)
    failed = {"uri": "s3://b/failed.jpg", "enrichment": "objects", "object_version": "new"}
    for each in (ROW, same_bytes, row(uri="s3://b/changed.jpg"), row(uri="s3://b/failed.jpg"), row(uri="s3://b/gone")):
        labels.save(boxes("dog", of=each), 0)
    later = {"inferred_at": ROW["inferred_at"] + timedelta(days=1), "enrichment": "caption"}
    again = [
        caption(**same_bytes | later | {"text": "a dog", "regions": None, "capability": "image_captioning"})
        | {"object_version": "touched"},
        caption(uri="s3://b/changed.jpg") | {"object_version": "another", "sha256": "d" * 64} | later,
        row(uri="s3://b/changed.jpg"),
    ]
    labels.catalog.publish(pl.DataFrame(again, schema=CATALOG_SCHEMA))
    labels.catalog.quarantine(
        pl.DataFrame([failed | {"failed_at": datetime(2026, 3, 1, tzinfo=UTC)}], schema=QUARANTINE_SCHEMA)
    )
    usable, others = labels.usable()
    assert sorted(usable["uri"]) == ["s3://b/k.jpg", "s3://b/touched.jpg"]
    assert dict(others.select("uri", "state").iter_rows()) == {
        "s3://b/changed.jpg": "changed",
        "s3://b/failed.jpg": "changed",
        "s3://b/gone": "unknown",
    }


BROKEN: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (ROW, {"regions": [region(x_max=400.0)]}, "boxes_are_inside_the_picture"),
    (ROW, {"regions": [region(x_min=31.0)]}, "boxes_are_ordered"),
    (ROW, {"regions": [region(label=" ")]}, "labels_are_not_empty"),
    (ROW, {"regions": [region(mask=MASK + "1")]}, "masks_decode_to_the_size_of_the_picture"),
    (ROW, {"regions": None}, "has_the_result_its_capability_gives"),
    (ROW, {"text": "a dog"}, "has_the_result_its_capability_gives"),
    (ROW, {"regions": [region(x_min="a")]}, "another type: x_min is 'a'"),
    (ROW, {"regions": [region(score="0.5")]}, "another type: score"),
    (ROW, {"regions": [region(colour="red")]}, "has no colour"),
    (ROW, {"regions": 5}, "another type: regions"),
    (ROW, {"regions": [region(label="\ud800")]}, "no text"),
    (caption(), {"text": ""}, "text_is_not_empty"),
    (answer(text="yes"), {"text": "maybe"}, "answer_is_among_the_choices"),
    (receipt('{"total": 1}'), {"extracted": '{"total": -1}'}, "extracted_is_of_its_schema"),
]


@pytest.mark.parametrize(("of", "result", "check"), BROKEN)
def test_a_label_passes_the_checks_of_a_row_or_is_refused_by_their_names(
    labels: Labels, of: dict[str, Any], result: dict[str, Any], check: str
) -> None:
    with pytest.raises(InvalidLabel, match=check) as caught:
        labels.save(label_of_row(of, result, "ann"), 0)
    assert {place for place, _ in caught.value.problems} == {0}
    assert labels.catalog.table("labels") is None


def test_all_that_is_wrong_is_told_at_once() -> None:
    stamped = {"revision": 1, "labelled_at": datetime.now(UTC)}
    rows = [boxes("dog") | stamped, boxes("cat", of=row(uri="s3://b/2")) | stamped, {**boxes(" "), **stamped}]
    rows[2] = {**rows[2], "uri": "no uri"}
    with pytest.raises(InvalidLabel) as caught:
        checked_labels(rows)
    assert {place for place, _ in caught.value.problems} == {2}
    assert len(caught.value.problems) == 2
    with pytest.raises(InvalidLabel, match="unique"):
        checked_labels([rows[0], rows[0]])


def test_labels_outlive_upkeep_and_are_a_view_of_sql(labels: Labels) -> None:
    for k in range(4):
        labels.save(boxes(str(k)), k)
    maintain(labels.catalog, Upkeep(), even_if_not_due=True)
    assert [words(each) for each in labels.history(*KEY)] == [["3"], ["2"], ["1"], ["0"]]
    assert labels.save(boxes("4"), 4)["revision"] == 5
    asked = connect(labels.catalog).execute("SELECT l.revision FROM labels l JOIN enrichments USING (uri, enrichment)")
    assert asked.fetchall() == [(5,)]
