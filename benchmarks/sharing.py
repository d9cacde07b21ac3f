"""What several questions about one picture cost over one: the ratio, side by side in one process.

    python -m benchmarks.sharing [--repetitions 15]

A Qwen2-VL of random weights (hidden size 256, four layers, Qwen's own vocabulary) is asked five short questions about
a picture of about a thousand tokens, with the picture's reading shared and not. A Florence-2 is asked for a caption,
the objects and one phrase: one of the published base shape, with random weights and replies of 20 tokens each, and
the demo's. One picture a batch, one thread; repetitions take turns, and medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.models.random_weights import florence2, qwen2_vl
from sightflow.blocks.models.contract import Generated, GenerationRequest
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest

SIDE = 896  # 32 x 32 tokens of 28 pixels
REPLY = 20  # tokens
QUESTIONS = (
    "Is there a person in this picture?",
    "What colour is the largest object?",
    "Was it taken indoors or outdoors?",
    "How many animals are there?",
    "What is the weather like?",
)
ASKED_OF_A_SCENE = (
    Enrichment(capability=Capability.IMAGE_CAPTIONING),
    Enrichment(capability=Capability.OBJECT_DETECTION),
    Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("red circle",)),
)


def units(
    model: OpenWeightsModel, enrichments: Sequence[Enrichment], media: DecodedImage, limit: int
) -> list[GenerationRequest]:
    asked = [VisionRequest("s3://bench/x", each, media) for each in enrichments]
    made = [
        GenerationRequest(request, prompt)
        for request in asked
        for prompt in model.prompts(request.enrichment, media.kind)
    ]
    return [replace(unit, prompt=replace(unit.prompt, max_new_tokens=limit)) for unit in made]


def generate(model: Any, batch: Sequence[GenerationRequest]) -> list[Generated]:
    """One batch, preprocessed and generated."""
    runs = model.open_engine().generator
    return list(runs.generate(batch, runs.preprocess(batch)))


def seconds(ways: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """The median of each way's repetitions, which take turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repetitions + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            with torch.inference_mode():
                way()
            if turn:  # the first turn warms up
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in took.items()}


def questions(repetitions: int, limit: int) -> tuple[str, dict[str, float]]:
    """One question and five about one picture, with and without sharing."""
    shared, apart = (qwen2_vl("cpu", size="small", share_prefix=share) for share in (True, False))
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    media = DecodedImage(Image.fromarray(noise), SIDE, SIDE, "0" * 64)
    asked = [Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question=question) for question in QUESTIONS]
    five = units(shared, asked, media, limit)
    length = shared.open_engine().generator.inputs(five[:1])["input_ids"].shape[1]
    took = seconds(
        {
            "one": lambda: generate(shared, five[:1]),
            "five, shared": lambda: generate(shared, five),
            "five, not shared": lambda: generate(apart, five),
        },
        repetitions,
    )
    return f"Qwen2-VL, random weights, a prompt of {length} tokens, replies of at most {limit}", took


def enrichments(model: Florence2, repetitions: int, limit: int) -> tuple[str, dict[str, float]]:
    """Three enrichments of one scene together, and each alone."""
    image = draw_scene(3).image
    media = DecodedImage(image, *image.size, "0" * 64)
    three = units(model, ASKED_OF_A_SCENE, media, limit)
    names = ("caption", "detection", "grounding")
    with torch.inference_mode():
        lengths = [generate(model, [unit])[0].usage.output_tokens for unit in three]
    ways: dict[str, Callable[[], object]] = {
        name: lambda unit=unit: generate(model, [unit])  # type: ignore[misc]
        for name, unit in zip(names, three, strict=True)
    }
    took = seconds(ways | {"all three": lambda: generate(model, three)}, repetitions)
    return "replies of " + ", ".join(f"{n} {k}" for n, k in zip(names, lengths, strict=True)) + " tokens", took


def rows(repetitions: int = 15, limit: int = 8) -> Iterator[tuple[str, float, str, str]]:
    """What is measured, its ratio, what it should be at most, and the figures; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for one another measure what else runs on the machine
    said, took = questions(repetitions, limit)
    for way, target in (("shared", "<= 2.0"), ("not shared", "")):
        figures = f"{said}: {_milliseconds(took)}"
        yield f"five questions over one, {way}", took[f"five, {way}"] / took["one"], target, figures
    base = florence2("cpu", size="base")
    base.open_engine().weights.model.generation_config.min_new_tokens = REPLY  # random weights end where they like
    demo = Florence2(id=str(MODEL_FOLDER), device="cpu")
    demo.prepare()
    asked = (
        ("Florence-2-base", base, repetitions // 5, REPLY, ("caption",)),
        ("the demo's Florence-2", demo, repetitions, 512, ("detection", "caption")),
    )
    for name, model, times, longest, ones in asked:
        said, took = enrichments(model, max(times, 1), longest)
        for one in ones:
            figures = f"{said}: {_milliseconds(took)}"
            yield f"three enrichments over {one}, {name}", took["all three"] / took[one], "<= 1.6", figures
    torch.set_num_threads(threads)


def _milliseconds(took: dict[str, float]) -> str:
    return ", ".join(f"{name} {1000 * each:.0f} ms" for name, each in took.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--limit", type=int, default=8, help="tokens a reply of the questions")
    given = parser.parse_args()
    for what, ratio, target, figures in rows(given.repetitions, given.limit):
        print(f"{ratio:5.2f} {target:7} {what}\n      {figures}", flush=True)


if __name__ == "__main__":
    main()
