"""When a system cannot answer, the next one does, and the row tells the route."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models import registry as systems
from sightflow.blocks.models.contract import Engine, GenerationRequest, Output
from sightflow.blocks.models.registry import system_class
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.spec_reader import read_spec
from tests.stand_in_model import StandIn, StandInEngine

pytestmark = pytest.mark.usefixtures("prefect_server")


class First(StandIn):
    """The best rated system, which cannot do what the test says."""

    _block_type_slug = "sightflow-first"
    rating = system_class("qwen2-vl").rating
    fails_with: ClassVar[dict[str, Cause]] = {}
    put: ClassVar[list[str]] = []

    def make_engine(self) -> Engine:
        return Failing(self)


class Failing(StandInEngine):
    """Fails for the objects that the test names."""

    def answer(self, each: GenerationRequest) -> Output:
        name = each.request.uri.rpartition("/")[2]
        First.put.append(name)
        if cause := First.fails_with.get(name, First.fails_with.get("*")):
            return Failure(cause, "it was told to fail")
        return super().answer(each)


class Second(StandIn):
    """The next one."""

    _block_type_slug = "sightflow-second"
    rating = system_class("llava-next").rating


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"qwen2-vl": f"{__name__}:First", "llava-next": f"{__name__}:Second"}
    monkeypatch.setattr(systems, "SYSTEMS", here)
    monkeypatch.setattr(systems, "system_class", {"qwen2-vl": First, "llava-next": Second}.__getitem__)
    monkeypatch.setattr("sightflow.tasks.route.SYSTEMS", here)
    First.fails_with, First.put = {}, []
    monkeypatch.setattr("sightflow.tasks.runtime.loaded_models._LOADED", {})


def spec_of(tmp_path: Path, write_spec: Any, count: int, **policy: Any) -> Path:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (k, k, k)).save(buffer, "PNG")
        (media / f"{k:02d}.png").write_bytes(buffer.getvalue())
    asked = [{"capability": "image captioning", "name": "caption", "language": "zh"}]
    rules = {"fallback": True, "max_quarantine_ratio": 1.0, **policy}
    path: Path = write_spec(f"{media}/*", enrichments=asked, models={}, policy=rules)
    return path


def routes(path: Path) -> dict[str, list[str]]:
    frame = Catalog(uri=read_spec(path).catalog).scan("enrichments").collect()
    return {row["uri"].rpartition("/")[2]: row["route"] for row in frame.iter_rows(named=True)}


@pytest.mark.usefixtures("two")
def test_the_next_system_answers_what_the_first_could_not(tmp_path: Path, write_spec: Any) -> None:
    path = spec_of(tmp_path, write_spec, 5)
    First.fails_with = {"02.png": Cause.REFUSED, "03.png": Cause.MALFORMED, "04.png": Cause.OUT_OF_MEMORY}
    report = enrich(read_spec(path))
    assert routes(path) == {
        "00.png": ["qwen2-vl"],
        "01.png": ["qwen2-vl"],
        "02.png": ["qwen2-vl", "llava-next"],
        "03.png": ["qwen2-vl", "llava-next"],
    }
    assert report.causes == {"out_of_memory": 1}  # another model would not have more memory


@pytest.mark.usefixtures("two")
def test_without_fallback_a_failure_is_a_failure(tmp_path: Path, write_spec: Any) -> None:
    path = spec_of(tmp_path, write_spec, 2, fallback=False)
    First.fails_with = {"01.png": Cause.REFUSED}
    assert enrich(read_spec(path)).causes == {"refused": 1}


@pytest.mark.usefixtures("two")
def test_a_dead_endpoint_is_not_tried_for_each_item(tmp_path: Path, write_spec: Any) -> None:
    path = spec_of(tmp_path, write_spec, 50)
    First.fails_with = {"*": Cause.MODEL}
    report = enrich(read_spec(path))
    assert report.published == 50
    assert set(map(tuple, routes(path).values())) == {("qwen2-vl", "llava-next")}
    assert len(First.put) == 16 + 16 + 2  # of each shard (16, 32 and 2 objects) one batch found out


@pytest.mark.usefixtures("two")
def test_a_next_system_without_credit_ends_the_run_with_what_the_first_answered_published(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spec_of(tmp_path, write_spec, 5)
    First.fails_with = {"02.png": Cause.REFUSED, "04.png": Cause.OUT_OF_MEMORY}
    monkeypatch.setattr(Second, "make_engine", lambda self: WithoutCredit(self))
    with pytest.raises(ModelError, match="no credit"):
        enrich(read_spec(path))
    assert set(routes(path)) == {"00.png", "01.png", "03.png"}
    quarantined = Catalog(uri=read_spec(path).catalog).scan("quarantine").collect()
    assert quarantined["cause"].to_list() == ["out_of_memory"], "what was refused waits for the second system"


class WithoutCredit(StandInEngine):
    def generate(self, batch: Sequence[GenerationRequest]) -> list[Output]:
        raise ModelError("no credit")
