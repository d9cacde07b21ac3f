"""What vLLM itself says, in process and at its server, is what transformers says of the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.infra.demo.moving_scenes import draw_clip
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import DecodedImage, DecodedVideo
from sightflow.schemas.vision import VisionRequest
from tests.tiny_models.families import noise, noisy_video, request
from tests.vllm import runs
from tests.vllm.exchange import Said

pytestmark = pytest.mark.timeout(1200)

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING, name="caption")
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING, name="video")
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="What colour is it?", name="ask")
COUNT = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING,
    question="How many shapes are there?",
    choices=("1", "2", "3", "red star"),
    name="count",
)
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING,
    question="Is there a box?",
    choices=("yes", "no", "not at all"),
    name="choose",
)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("box", "star"), name="detect")
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("a red circle",), name="ground")
LIMIT = 24


def scene(seed: int) -> DecodedImage:
    """A scene as large as the demo's Qwen2-VL sees it: at an endpoint a larger one is made so by another filter."""
    image = draw_scene(seed).image.convert("RGB").resize((64, 64))
    return DecodedImage(image, *image.size, f"{seed:064d}")


def film(seed: int) -> DecodedVideo:
    clip = draw_clip(seed)
    shown = tuple(int(k) for k in np.linspace(0, clip.frame_count - 1, 8).round())
    frames = tuple(clip.frame(k)[0].convert("RGB") for k in shown)
    times = tuple(k / clip.frame_rate for k in shown)
    duration = clip.frame_count / clip.frame_rate
    return DecodedVideo(frames, shown, times, clip.width, clip.height, duration, clip.frame_rate, f"{seed:064d}")


def captions() -> list[VisionRequest]:
    pictures = [request(CAPTION, scene(seed), f"s3://b/{seed}") for seed in range(40)]
    return pictures + [request(VIDEO, film(seed), f"s3://films/{seed}") for seed in range(6)]


def counts() -> list[VisionRequest]:
    return [request(COUNT, scene(seed), f"s3://b/{seed}") for seed in range(20)]


def free_text() -> list[VisionRequest]:
    """Of sizes on the grid of the processor, for the same reason."""
    asked = []
    for width, height in ((112, 84), (56, 140), (84, 84), (140, 112)):
        picture = noise(width, height)
        asked += [request(each, picture, f"s3://b/{width}") for each in (CAPTION, ASK)]
    return asked + [request(VIDEO, noisy_video(n, 112, 84), f"s3://films/{n}") for n in (1, 2, 3, 8)]


def held() -> list[VisionRequest]:
    """Several questions about each picture, whose replies are held to choices or to JSON."""
    asked = []
    for seed in range(4):
        picture = noise(112, 84, seed)
        asked += [request(each, picture, f"s3://b/{seed}") for each in (CHOOSE, DETECT, GROUND)]
    return asked


def local(requests: Sequence[VisionRequest], weights: str, **settings: Any) -> list[Said]:
    return [Said.of(reply) for reply in Qwen2VL(id=weights, device="cpu", **settings).run(requests)]


def at(server: runs.Server, requests: Sequence[VisionRequest], **settings: Any) -> list[Said]:
    model = Qwen2VL(id=server.weights, engine="endpoint", endpoint_url=server.url, **settings)
    return [Said.of(reply) for reply in model.run(requests)]


def choices_of(said: Sequence[Said]) -> list[str]:
    return [each.outcome for each in said if each.enrichment == "choose"]


# --- in process ---------------------------------------------------------------------------------


def test_captions_films_and_choices_are_word_for_word_those_of_transformers(tmp_path: Path) -> None:
    requests = [*captions(), *counts()]
    done = runs.ask_in_process(requests, tmp_path / "asked", id=runs.DEMO, max_model_len=1024)
    assert done.replies == local(requests, runs.DEMO)
    assert "INFO" not in done.screen and len(done.screen.splitlines()) < 25, done.screen


def test_with_qwen_s_vocabulary_replies_are_alike_too_and_held_to_their_form(tmp_path: Path, tiny_weights: str) -> None:
    free, constrained = free_text(), held()
    settings: dict[str, Any] = {"id": tiny_weights, "max_new_tokens": LIMIT}
    done = runs.ask_in_process([*free, *constrained], tmp_path / "asked", max_model_len=2048, **settings)
    wanted = local([*free, *constrained], tiny_weights, max_new_tokens=LIMIT)
    assert done.replies[: len(free)] == wanted[: len(free)]
    assert choices_of(done.replies) == choices_of(wanted)
    regions = [each.outcome for each in done.replies if each.enrichment in ("detect", "ground")]
    # Where white space may stand in JSON the two grammars differ, so random weights say other things.
    assert not [each for each in regions if not each.startswith(("RegionsResult", "truncated"))]


def test_a_start_without_the_memory_says_so_and_is_not_tried_twice(tmp_path: Path) -> None:
    asked = counts()[:1]
    done = runs.ask_in_process(asked, tmp_path / "asked", id=runs.DEMO, gpu_memory_utilization=1.0)
    (first, _), (second, seconds) = done.failed_starts
    assert "Available memory on node" in first and "gpu_memory_utilization" in first
    assert second == first and seconds < 2
    assert len(done.screen.splitlines()) < 80, done.screen  # what Python itself writes of a process that ended


# --- at its server ------------------------------------------------------------------------------


def test_at_the_server_captions_and_films_are_those_of_transformers(demo_server: runs.Server) -> None:
    requests = captions()
    assert at(demo_server, requests, endpoint_videos="video_url") == local(requests, runs.DEMO)


def test_a_form_that_the_demo_s_vocabulary_cannot_spell_is_told_without_six_tries(demo_server: runs.Server) -> None:
    """It has no quotation mark, so that no JSON can hold the choice."""
    for said in at(demo_server, counts()[:4]):
        assert said.outcome.startswith(("TextResult", "malformed")), said


def test_at_the_server_free_text_is_alike_and_choices_are_held(tiny_server: runs.Server) -> None:
    free = free_text()
    settings: dict[str, Any] = {"max_new_tokens": LIMIT, "endpoint_videos": "video_url"}
    assert at(tiny_server, free, **settings) == local(free, tiny_server.weights, max_new_tokens=LIMIT)
    said = at(tiny_server, held(), **settings)
    assert not [each for each in said if not each.outcome.startswith(("TextResult", "RegionsResult", "truncated"))]
    assert len(choices_of(said)) == 4


def test_at_the_server_what_several_questions_share_is_read_once(tiny_server: runs.Server) -> None:
    picture = noise(140, 140)
    model = Qwen2VL(
        id=tiny_server.weights, engine="endpoint", endpoint_url=tiny_server.url, max_new_tokens=4, max_concurrency=1
    )
    first, second = model.run([request(each, picture) for each in (CAPTION, ASK)])
    assert second.usage.cached_input_tokens >= 32 > first.usage.cached_input_tokens
