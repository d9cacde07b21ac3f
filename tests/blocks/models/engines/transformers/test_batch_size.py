"""How many objects a batch holds: found once by what memory they take, and never a size that has failed."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import PrivateAttr

from sightflow.blocks.models.contract import Generated, GenerationRequest
from sightflow.blocks.models.engines.transformers.batch_size import BatchSize, batch_size_file
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.vision import VisionRequest
from tests.tiny_models.families import noise

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)


class Device:
    """A device of so many bytes, on which an object takes 10 and whose batches are counted; its own memory meter."""

    def __init__(self, room: int, greedy: str = "", an_object: int = 10) -> None:
        self.room, self.greedy, self.an_object = room, greedy, an_object
        self.tried: list[int] = []
        self.starts = 0

    def start(self) -> None:
        self.starts += 1

    def peak(self) -> int:
        return self.an_object * self.tried[-1]

    def free(self) -> int:
        return self.room

    def preprocess(self, batch: Sequence[GenerationRequest]) -> None:
        pass

    def generate(self, units: Sequence[GenerationRequest], inputs: object) -> list[Generated]:
        objects = len({unit.request.uri for unit in units})
        self.tried.append(objects)
        if self.an_object * objects > self.room or any(unit.request.uri == self.greedy for unit in units):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [Generated(unit.request.uri) for unit in units]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return batch_size_file()


class OnDevice(Florence2):
    """Weights that are a `Device`."""

    _block_type_slug = "sightflow-on-device"
    device: str = "cpu"
    _device: Any = PrivateAttr(default=None)

    def batch_generator(self, weights: Any) -> Any:
        return self._device


def on(device: Device, metered: bool = True, **settings: Any) -> Florence2:
    model = OnDevice(id=str(MODEL_FOLDER), **settings)
    model._device = device
    engine = model.open_engine()
    engine.memory_meter = lambda: device if metered else None
    engine.adopt(SimpleNamespace(config=None), None)  # as if loaded: what it would say is the device's
    return model


def answers(model: Florence2, count: int) -> None:
    """Ask of so many pictures of different sizes; every answer is that of its own."""
    requests = [VisionRequest(f"s3://b/{k}", CAPTION, noise(8 + k % 7, 8)) for k in range(count)]
    assert [reply.raw_reply for reply in model.run(requests)] == [request.uri for request in requests]


def test_batches_grow_until_the_next_would_not_fit(cache: Path) -> None:
    device = Device(room=250)
    answers(on(device), 100)
    assert device.tried == [8, 16, 20, 20, 20, 16]  # 20 objects take 200 of 250
    assert device.starts == 3
    assert list(json.loads(cache.read_text()).values()) == [20]


def test_what_was_found_is_found_once() -> None:
    answers(on(Device(room=250)), 100)
    again = Device(room=250)
    answers(on(again), 40)
    assert (again.tried, again.starts) == ([20, 20], 0)


def test_another_question_is_measured_anew() -> None:
    answers(on(Device(room=250)), 100)
    other = Device(room=250)
    answers(on(other, max_new_tokens=7), 8)
    assert (other.tried, other.starts) == ([8], 1)


def test_more_objects_are_asked_for_at_once_as_batches_grow() -> None:
    model = on(Device(room=10_000))
    assert model.objects_at_once == 16
    answers(model, 100)
    assert model.objects_at_once == 64
    assert on(Device(room=1), batch_size=50).objects_at_once == 100


@pytest.mark.parametrize("metered", [True, False])
def test_a_size_that_failed_is_not_tried_again(metered: bool) -> None:
    device = Device(room=59)
    model = on(device, metered)
    answers(model, 24)
    answers(model, 24)
    assert device.tried.count(8) == 1 and max(device.tried[1:]) < 8
    if metered:
        again = Device(room=59)
        answers(on(again), 24)
        assert set(again.tried) == {4}


def test_a_number_stays_as_it_was_asked_for(cache: Path) -> None:
    device = Device(room=1000)
    answers(on(device, batch_size=5), 20)
    assert (device.tried, device.starts) == ([5, 5, 5, 5], 0)
    assert not cache.exists()


def test_one_object_that_fits_nowhere_makes_no_batch_smaller() -> None:
    device = Device(room=1000, greedy="s3://b/3")
    requests = [VisionRequest(f"s3://b/{k}", CAPTION, noise(8, 8)) for k in range(16)]
    replies = on(device, metered=False).run(requests)
    assert [k for k, reply in enumerate(replies) if reply.failure] == [3]
    assert replies[3].failure and replies[3].failure.cause is Cause.OUT_OF_MEMORY
    assert device.tried[-1] == 8


@pytest.mark.parametrize("content", ["", "[]", '{"here": "many"}', '{"here": 0}', '{"here": 100000}', "\x00"])
def test_a_spoilt_file_costs_a_search(tmp_path: Path, content: str) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(content)
    assert BatchSize(8, Device(room=100), file, "here").now == 8
