"""Only what is missing is computed; what is there is never computed again."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.infra.cli.catalog import app
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.plan import RunPlan, Status
from sightflow.schemas.run.report import QuarantineExceeded, RunReport
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.create_artifacts import markdown
from sightflow.tasks.discover import discover
from sightflow.tasks.plan import plan
from sightflow.tasks.runtime.publisher import LISTENER

pytestmark = pytest.mark.usefixtures("prefect_server")
TWO = [
    {"capability": "image captioning", "name": "caption"},
    {"capability": "object detection", "name": "objects", "labels": ["dark"]},
]


def flat(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(6):
        (media / f"{k}.png").write_bytes(flat((k * 10, 20, 30)))
    return media


def run(path: Path) -> RunReport:
    return enrich(read_spec(path))


def rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    frame = Catalog(uri=read_spec(path).catalog).scan("enrichments").collect()
    found = {(r["uri"].rpartition("/")[2], r["enrichment"]): r for r in frame.iter_rows(named=True)}
    assert len(found) == frame.height
    return found


def versions(path: Path) -> list[int | None]:
    catalog = Catalog(uri=read_spec(path).catalog)
    return [catalog.version(name) for name in ("enrichments", "quarantine", "runs")]


def test_a_second_run_asks_nothing_and_commits_nothing(folder: Path, write_spec: Any, stand_in: Any) -> None:
    (folder / "broken.png").write_bytes(b"")
    path = write_spec(f"{folder}/*", enrichments=TWO)
    first = run(path)
    assert (first.published, first.quarantined) == (12, 2)
    before = versions(path)
    stand_in.reset()
    second = run(path)
    assert not stand_in.asked
    assert (second.published, second.commits, second.unchanged) == (0, 0, 12)
    assert versions(path) == before


def test_many_small_commits_are_joined_when_due_and_the_next_run_commits_nothing(
    folder: Path, write_spec: Any, stand_in: Any
) -> None:
    policy = {"shard_size": 1, "commit_rows": 1, "upkeep": {"compact_files": 3}}
    path = write_spec(f"{folder}/*", policy=policy)
    first = run(path)
    joined = ["enrichments: 3 files joined into 1", "enrichments: 4 files joined into 1"]
    assert [tended.summary for tended in first.upkeep] == joined
    assert f"upkeep of {joined[1]}" in markdown(first)
    assert len(rows(path)) == 6
    before = versions(path)
    second = run(path)
    assert (second.commits, second.upkeep) == (0, [])
    said = CliRunner().invoke(app, ["upkeep", str(path)])
    assert said.output.splitlines() == ["enrichments: no files to join", "runs: no files to join"]
    assert versions(path) == before


class Gone:
    """A progress bar whose terminal has gone: it raises at the turn it is given."""

    def __init__(self, raised: BaseException, turn: str) -> None:
        self.raised, self.turn, self.told = raised, turn, list[str]()

    def planned(self, run_plan: RunPlan) -> None:
        self._tell("planned")

    def advanced(self, published: int, quarantined: int) -> None:
        self._tell("advanced")

    def _tell(self, turn: str) -> None:
        self.told.append(turn)
        if turn == self.turn:
            raise self.raised


@pytest.mark.parametrize("turn", ["planned", "advanced"])
@pytest.mark.parametrize("raised", [BrokenPipeError(), SystemExit(1)])
def test_who_listens_and_fails_costs_no_row_and_is_told_no_more(
    folder: Path, write_spec: Any, stand_in: Any, raised: BaseException, turn: str
) -> None:
    bar = Gone(raised, turn)
    token = LISTENER.set(bar)
    try:
        path = write_spec(f"{folder}/*", policy={"shard_size": 1, "commit_rows": 1})
        assert run(path).published == 6
    finally:
        LISTENER.reset(token)
    assert len(rows(path)) == 6
    assert bar.told == ["planned", "advanced"][: 1 + (turn == "advanced")]


def test_a_prefect_server_that_does_not_answer_for_the_progress_bar_holds_nobody_up(
    folder: Path, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def move(*_: Any) -> None:
        asked.set()
        answered.wait()

    monkeypatch.setattr("sightflow.tasks.runtime.artifacts.progress_artifact.update_progress_artifact", move)
    try:
        path = write_spec(f"{folder}/*", policy={"shard_size": 1, "commit_rows": 1})
        assert run(path).published == 6
        assert asked.is_set()
    finally:
        answered.set()
    assert len(rows(path)) == 6


@pytest.mark.parametrize("where", ["record_metrics", "publish"])
def test_what_ends_the_thread_that_commits_ends_the_run_and_is_raised(
    folder: Path, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As Prefect does where a run is suspended, and a log whose terminal has gone."""

    def end(*_: Any) -> None:
        raise SystemExit(1)

    path = write_spec(f"{folder}/*", policy={"shard_size": 1, "commit_rows": 1})
    with monkeypatch.context() as patched:
        patched.setattr(f"sightflow.tasks.runtime.publisher.{where}", end)
        with pytest.raises(SystemExit):
            run(path)
    assert run(path).published == (5 if where == "record_metrics" else 6)
    assert len(rows(path)) == 6


def test_an_overwritten_object_is_computed_again_and_no_other(folder: Path, write_spec: Any, stand_in: Any) -> None:
    path = write_spec(f"{folder}/*", enrichments=TWO)
    run(path)
    before = rows(path)
    (folder / "3.png").write_bytes(flat((200, 0, 0)))
    stand_in.reset()
    report = run(path)
    assert {Path(uri).name for uri, _ in stand_in.asked} == {"3.png"}
    assert report.plans[0].counts[Status.CHANGED] == 1
    after = rows(path)
    changed = {key for key in after if after[key]["run_id"] != before[key]["run_id"]}
    assert changed == {("3.png", "caption"), ("3.png", "objects")}
    assert json.loads(after["3.png", "caption"]["text"]) == [200, 0, 0]


def test_a_changed_label_list_is_stale_for_that_enrichment_only(folder: Path, write_spec: Any, stand_in: Any) -> None:
    run(write_spec(f"{folder}/*", enrichments=TWO))
    stand_in.reset()
    report = run(write_spec(f"{folder}/*", enrichments=[TWO[0], {**TWO[1], "labels": ["dark", "bright"]}]))
    assert {name for _, name in stand_in.asked} == {"objects"}
    assert {p.enrichment: p.counts[Status.STALE] for p in report.plans} == {"caption": 0, "objects": 6}


def test_a_changed_model_is_stale_and_can_be_kept(folder: Path, write_spec: Any, stand_in: Any) -> None:
    run(write_spec(f"{folder}/*"))
    stand_in.reset()
    newer = {"models": {"florence-2": {"revision": "2"}}}
    keep = run(write_spec(f"{folder}/*", **newer, policy={"stale": "keep"}))
    assert not stand_in.asked and keep.plans[0].counts[Status.STALE] == 6
    path = write_spec(f"{folder}/*", **newer)
    assert run(path).published == 6
    assert {row["model_revision"] for row in rows(path).values()} == {"2"}


def test_a_deleted_object_is_an_orphan_and_goes_only_with_prune(folder: Path, write_spec: Any, stand_in: Any) -> None:
    path = write_spec(f"{folder}/*", enrichments=TWO)
    run(path)
    (folder / "2.png").unlink()
    spec = read_spec(path)
    run_plan = plan.fn(discover.fn(spec), spec)
    assert [Path(uri).name for uri in run_plan.orphaned["uri"]] == ["2.png"]
    assert run(path).orphaned == 1 and len(rows(path)) == 12
    path = write_spec(f"{folder}/*", enrichments=TWO, policy={"prune": True})
    assert run(path).pruned == 2
    assert {name for name, _ in rows(path)} == {f"{k}.png" for k in (0, 1, 3, 4, 5)}
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(StoreError, match="lists no object"):
        run(path)
    assert len(rows(path)) == 10


def test_a_permanent_failure_waits_for_a_change_and_then_leaves_the_quarantine(
    folder: Path, write_spec: Any, stand_in: Any
) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    path = write_spec(f"{folder}/*")
    assert run(path).causes == {"unsupported": 1}
    again = run(path)
    assert again.quarantined == 0 and again.plans[0].counts[Status.QUARANTINED] == 1
    (folder / "bad.png").write_bytes(flat((1, 2, 3)))
    assert run(path).published == 1
    assert Catalog(uri=read_spec(path).catalog).scan("quarantine").collect().is_empty()


def test_an_old_row_stays_until_its_replacement_is_good(folder: Path, write_spec: Any, stand_in: Any) -> None:
    path = write_spec(f"{folder}/*")
    run(path)
    before = rows(path)["1.png", "caption"]
    (folder / "1.png").write_bytes(b"")
    assert run(path).causes == {"unreadable": 1}
    assert rows(path)["1.png", "caption"] == before


def test_too_many_failures_fail_the_run_and_publish_what_is_good(folder: Path, write_spec: Any, stand_in: Any) -> None:
    (folder / "bad.png").write_bytes(b"")
    path = write_spec(f"{folder}/*", policy={"max_quarantine_ratio": 0.1})
    with pytest.raises(QuarantineExceeded) as raised:
        run(path)
    assert raised.value.report.published == 6
    assert len(rows(path)) == 6


def test_every_row_has_the_pixels_of_its_own_object(folder: Path, write_spec: Any, stand_in: Any) -> None:
    for k in range(40):
        (folder / f"x{k:02d}.png").write_bytes(flat((k * 6, 255 - k * 6, 128)))
    results = []
    for size in (1, 7, 64):
        path = write_spec(f"{folder}/x*", catalog=str(folder.parent / f"catalog{size}"), policy={"shard_size": size})
        run(path)
        results.append({key: row["text"] for key, row in rows(path).items()})
    for (name, _), text in results[0].items():
        k = int(name[1:3])
        assert json.loads(text) == [k * 6, 255 - k * 6, 128]
    assert results[0] == results[1] == results[2]
    shas = pl.Series([row["sha256"] for row in rows(path).values()])
    assert shas.is_unique().all()
