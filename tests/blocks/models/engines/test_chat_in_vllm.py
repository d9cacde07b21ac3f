"""Chat in vLLM: a stand-in held to its published signatures, with transformers' own classes behind it."""

from pathlib import Path

import pytest

from sightflow.blocks.models.systems.chat import Chat
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from tests.loopback import fake_vllm
from tests.tiny_models.chat_families import BUILDERS
from tests.tiny_models.families import noise, noisy_video, request

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
CHOOSE = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="Is it red?", choices=("yes", "no"))
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)


@pytest.mark.parametrize("family", ["smolvlm", "internvl", "llava_onevision"])
def test_the_same_weights_say_in_vllm_what_they_say_in_transformers(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = BUILDERS[family](tmp_path / family)
    here = Chat(id=str(folder), max_new_tokens=6, device="cpu")
    fake_vllm.install(monkeypatch, tmp_path / "installed")
    there = Chat(id=str(folder), max_new_tokens=6, engine="vllm")
    asked = [request(e, noise(*size)) for size in ((60, 40), (33, 80)) for e in (CAPTION, CHOOSE)]
    if family == "llava_onevision":  # the stand-in writes out a film by itself; the others' have words in them
        asked += [request(VIDEO, noisy_video(3))]
    assert [reply.raw_reply for reply in there.run(asked)] == [reply.raw_reply for reply in here.run(asked)]
