"""Objects whose names do not say what they are: looked at once, counted in the plan, never passed over in silence."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.flows.enrich import enrich
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from tests.command_line import app
from tests.e2e.test_incremental import flat
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("prefect_server", "stand_in")
FILES = Path(__file__).parents[1] / "tasks" / "media" / "files"
CAPTION = {"capability": "image captioning", "name": "caption"}
STORY = {"capability": "video captioning", "name": "story", "sampling": {"frames": 2}}


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs whose first bytes are read."""
    seen: list[str] = []
    read_starts = ObjectStore.read_starts

    def told(store: ObjectStore, uris: list[str], length: int) -> Any:
        for uri, start in zip(uris, read_starts(store, uris, length), strict=True):
            seen.append(uri)
            yield start

    monkeypatch.setattr(ObjectStore, "read_starts", told)
    return seen


@pytest.fixture
def film(tmp_path: Path) -> bytes:
    return write_video(tmp_path / "film.mp4", [k * 40 for k in range(10)]).read_bytes()


def rows(spec: Path) -> set[tuple[str, str]]:
    found = Catalog(uri=read_spec(spec).catalog).scan("enrichments").collect()
    return {(uri.rpartition("/")[2], name) for uri, name in found.select("uri", "enrichment").iter_rows()}


def test_videos_of_any_name_are_asked_about_and_looked_at_once(
    bucket: Any, write_spec: Any, film: bytes, looked_at: list[str]
) -> None:
    videos = {"key-without-suffix", "mp4", "clip.bin", "CLIP.MP4", "h264.3gp", "plain.vob", "plain.m2v", "plain.asf"}
    for name in videos:
        content = (FILES / name).read_bytes() if name.startswith(("h264", "plain")) else film
        bucket.put(f"in/{name}", content)
    images = {"image-without-suffix", "a.png"}
    for name in images:
        bucket.put(f"in/{name}", flat((1, 2, 3)))
    bucket.put("in/empty", b"")
    bucket.put("in/notes.txt", b"the free text of nobody")
    spec = write_spec(
        f"s3://{bucket.name}/in/**", store={"endpoint_url": bucket.endpoint}, enrichments=[CAPTION, STORY]
    )
    report = enrich(read_spec(spec))
    assert rows(spec) == {(name, "story") for name in videos} | {(name, "caption") for name in images}
    assert report.quarantined == 2 and report.not_asked == {}
    unnamed = ["clip.bin", "empty", "image-without-suffix", "key-without-suffix", "mp4", "notes.txt"]
    assert [uri.rpartition("/")[2] for uri in looked_at] == unnamed
    looked_at.clear()
    assert enrich(read_spec(spec)).commits == 0
    assert [uri.rpartition("/")[2] for uri in looked_at] == ["empty", "notes.txt"], "what has a result is known"


def test_what_no_enrichment_takes_is_told_in_the_plan_and_in_the_summary(
    tmp_path: Path, write_spec: Any, film: bytes
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "one").write_bytes(film)
    (media / "two.mp4").write_bytes(film)
    (media / "three").write_bytes(flat((1, 2, 3)))
    spec = write_spec(f"{media}/*", enrichments=[CAPTION], models={})
    words = "not asked: 2 videos, since no enrichment takes any"
    for command in ("plan", "run"):
        done = CliRunner().invoke(app, [command, str(spec)])
        assert done.exit_code == 0 and words in done.output, done.output
    assert rows(spec) == {("three", "caption")}


def test_of_a_few_no_more_are_looked_at_than_it_takes(
    tmp_path: Path, write_spec: Any, film: bytes, looked_at: list[str]
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(9):
        (media / f"{k}").write_bytes(film if k < 3 else flat((k, 2, 3)))
    spec = read_spec(write_spec(f"{media}/*", enrichments=[CAPTION], models={}))
    assert enrich(spec, Selection(limit=2)).published == 2
    assert looked_at == [f"file://{media}/{k}" for k in range(5)]
    assert enrich(spec, Selection(limit=2)).published == 2
    looked_at.clear()
    found = discover.fn(spec, Selection(prefix=f"file://{media}/8")).inventory
    kinds = dict(found.select("uri", "media_kind").iter_rows())
    assert looked_at == [f"file://{media}/8"] and kinds[f"file://{media}/0"] is None


def test_what_cannot_be_looked_at_fails_by_itself(tmp_path: Path, write_spec: Any, film: bytes) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "film").write_bytes(film)
    (media / "gone").write_bytes(film)
    spec = read_spec(write_spec(f"{media}/*", enrichments=[STORY], models={}))
    starts = ObjectStore.read_starts

    def without_one(store: ObjectStore, uris: list[str], length: int) -> Any:
        (media / "gone").unlink()
        return starts(store, uris, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "read_starts", without_one)
        report = enrich(spec)
    assert (report.published, dict(report.causes)) == (1, {"changed": 1})
