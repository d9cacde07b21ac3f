"""A GPU that a process has lost: nothing more is asked of it, and what it had answered is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sightflow.blocks.models.contract import Incomplete
from sightflow.blocks.models.systems.instruct_blip import InstructBlip
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from tests.tiny_models import instruct_blip
from tests.tiny_models.families import generator, noise, request

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)


def test_a_lost_device_is_no_item_s_failure_and_ends_the_call_with_the_answers_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = instruct_blip.build(tmp_path / "tiny", language_model="t5")
    model = InstructBlip(id=str(folder), device="cpu", max_new_tokens=4, batch_size=2)
    model.prepare()
    runs, calls = generator(model), []
    works = runs.generate

    def generate(batch: Sequence[Any], inputs: Any) -> Any:
        calls.append(len(batch))
        if len(calls) > 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return works(batch, inputs)

    monkeypatch.setattr(runs, "generate", generate)
    with pytest.raises(Incomplete, match="cannot be used any more") as stopped:
        model.run([request(CAPTION, noise(20, 20, k), f"s3://b/{k}") for k in range(5)])
    assert calls == [2, 2], "nothing is tried on a device that is lost"
    answered = [reply.uri for reply in stopped.value.done if reply]
    assert answered == ["s3://b/0", "s3://b/1"]
