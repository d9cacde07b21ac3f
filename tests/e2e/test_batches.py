"""The real demo model in batches: any composition says the same, and one that is too much stands alone in the end."""

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch

from sightflow.blocks.models.contract import Generated, GenerationRequest, LoadedWeights
from sightflow.blocks.models.systems.florence2 import Florence2, Florence2Generator
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import Scene, draw_scene
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION)
SCENES = [draw_scene(seed) for seed in range(300, 316)]


@pytest.fixture(scope="module")
def model() -> Florence2:
    loaded = Florence2(id=str(MODEL_FOLDER), device="cpu", dtype="float32")
    loaded.prepare()
    return loaded


def share(model: Florence2, other: Florence2) -> None:
    """Let another model compute with the weights that one has loaded."""
    weights: Any = model.open_engine().weights  # type: ignore[attr-defined]
    other.open_engine().adopt(weights.model, weights.processor)  # type: ignore[attr-defined]


def asked(scenes: Sequence[Scene]) -> list[VisionRequest]:
    """A caption and the objects of each scene."""
    requests = []
    for scene in scenes:
        media = DecodedImage(scene.image, *scene.image.size, f"{scene.seed:064d}")
        requests += [VisionRequest(f"s3://bucket/{scene.seed}.png", ask, media) for ask in (CAPTION, DETECT)]
    return requests


def test_any_composition_of_batches_says_the_same(model: Florence2) -> None:
    requests = asked(SCENES)
    single = [model.run([request])[0].outcome for request in requests]
    chance = random.Random(4)
    for size in (2, 5, 16):
        order = chance.sample(range(len(requests)), len(requests))
        batched = model.model_copy(update={"batch_size": size})
        share(model, batched)
        replies = batched.run([requests[k] for k in order])
        assert [reply.outcome for reply in replies] == [single[k] for k in order]
        assert [reply.uri for reply in replies] == [requests[k].uri for k in order]


class Greedy(Florence2):
    """Runs out of memory whenever the culprit is in the batch."""

    _block_type_slug = "sightflow-greedy"
    batches: ClassVar[list[int]] = []
    culprit: ClassVar[str] = "s3://bucket/305.png"

    def batch_generator(self, weights: LoadedWeights) -> Florence2Generator:
        return Generator(weights)


class Generator(Florence2Generator):
    def generate(self, batch: Sequence[GenerationRequest], inputs: Any) -> list[Generated]:
        Greedy.batches.append(len(batch))
        if any(each.request.uri == Greedy.culprit for each in batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().generate(batch, inputs)


def test_out_of_memory_halves_the_batch_until_the_culprit_stands_alone(model: Florence2) -> None:
    greedy = Greedy(id=str(MODEL_FOLDER), device="cpu", dtype="float32", batch_size=16)
    share(model, greedy)
    requests = asked(SCENES)
    replies = greedy.run(requests)
    for request, reply, plain in zip(requests, replies, model.run(requests), strict=True):
        if request.uri == Greedy.culprit:
            assert reply.failure and reply.failure.cause is Cause.OUT_OF_MEMORY
        else:
            assert reply.outcome == plain.outcome
    assert max(greedy.batches) == 32 and greedy.batches.count(1) >= 2
