"""Every open family of instruction-tuned models, tiny, behind its own adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightflow.blocks.models.contract import Generated, GenerationRequest
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.systems.instruct_blip import InstructBlip
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.blocks.models.systems.video_llava import VideoLlava
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.vision import VisionRequest
from tests.tiny_models import instruct_blip, llava_next, qwen_vl, video_llava


@dataclass(frozen=True)
class Family:
    """`build(folder)` saves weights with a seed of its own; `media` are the kinds it sees."""

    name: str
    adapter: type[OpenWeightsModel]
    build: Callable[[Path], Path] = field(repr=False)

    def __str__(self) -> str:
        return self.name


FAMILIES = (
    Family("llava_next", LlavaNext, llava_next.build),
    Family("video_llava", VideoLlava, video_llava.build),
    *(Family(name, Qwen2VL, partial(qwen_vl.build, generation=name)) for name in qwen_vl.GENERATIONS),
    Family("instruct_blip_t5", InstructBlip, partial(instruct_blip.build, language_model="t5")),
    Family("instruct_blip_vicuna", InstructBlip, partial(instruct_blip.build, language_model="vicuna")),
)


def noise(width: int, height: int, seed: int = 0) -> DecodedImage:
    """A picture on which two different models or two different seeds never agree."""
    pixels = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage(Image.fromarray(pixels), width, height, f"{seed:064d}")


def blank(width: int, height: int) -> DecodedImage:
    """A black picture, where only its size counts."""
    return DecodedImage(Image.new("RGB", (width, height)), width, height, "0" * 64)


def noisy_video(frames: int, width: int = 60, height: int = 40, seed: int = 0, spacing: float = 0.4) -> DecodedVideo:
    """A film of `frames` sampled frames, `spacing` seconds apart, of 25 frames a second."""
    images = tuple(noise(width, height, 100 * seed + k).pixels for k in range(frames))
    seconds = tuple(k * spacing for k in range(frames))
    places = tuple(round(25 * second) for second in seconds)
    return DecodedVideo(images, places, seconds, width, height, frames * spacing, 25.0, f"{seed:064d}")


def request(enrichment: Enrichment, media: Media, uri: str = "s3://b/x") -> VisionRequest:
    return VisionRequest(uri, enrichment, media)


def units(model: OpenWeightsModel, *requests: VisionRequest) -> list[GenerationRequest]:
    """Every prompt of the requests with its request, as the engine is given them."""
    return [GenerationRequest(r, prompt) for r in requests for prompt in model.prompts(r.enrichment, r.media.kind)]


def generator(model: OpenWeightsModel) -> Any:
    """What runs a loaded model batch by batch."""
    return model.open_engine().generator


def loaded(model: OpenWeightsModel) -> Any:
    """The torch module of a loaded model."""
    return generator(model).weights.model


def generate(model: OpenWeightsModel, batch: Sequence[GenerationRequest]) -> list[Generated]:
    """The replies to one batch, preprocessed and generated in one go."""
    runs = generator(model)
    return list(runs.generate(batch, runs.preprocess(batch)))


def said_by_the_library(model: Any, inputs: Any, prompt_length: int, limit: int) -> list[list[int]]:
    """The tokens of a plain greedy call of transformers."""
    import torch

    with torch.inference_mode():
        tokens = loaded(model).generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
    return [row[prompt_length:].tolist() for row in tokens]


def assert_asked_as_the_library_does(model: OpenWeightsModel, asked: VisionRequest, limit: int) -> None:
    """A picture's inputs are those of the library's own chat template, and the reply is what it says to them."""
    import torch

    (unit,) = units(model, asked)
    content = [{"type": "image", "image": asked.media.pixels}, {"type": "text", "text": unit.prompt.text}]
    theirs = model._processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ours = generator(model).inputs([unit])
    assert set(ours) == set(theirs)
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name
    (tokens,) = said_by_the_library(model, theirs, theirs["input_ids"].shape[1], limit)
    (said,) = model.run([asked])
    assert said.raw_reply == model._processor.tokenizer.decode(tokens, skip_special_tokens=True)
