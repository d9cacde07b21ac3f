"""What our adapters make of a GPU, beside a plain loop of transformers with batches of the same size; no network.

    python -m benchmarks.gpu [--seconds 30] [--models florence-2-large qwen2-vl-2b ...] [--tiny]

Random weights in the published shapes, pictures of mixed sizes, five questions about each (of Florence-2: a caption,
the objects, one phrase). The plain loop gives the processor each prompt with its picture and calls `generate`. An item
is one answered prompt. Without a GPU it says so and exits with 2; `--tiny` runs the same code on a CPU, shrunken.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.models.random_weights import SHAPES
from benchmarks.sharing import ASKED_OF_A_SCENE, QUESTIONS
from sightflow.blocks.models.contract import GenerationRequest
from sightflow.blocks.models.engines.transformers.chat_generation import ChatGenerator
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause
from sightflow.schemas.vision import VisionRequest
from tests.tiny_models.families import noise

SIZES = ((1024, 768), (768, 1024), (640, 480), (1280, 720), (800, 800), (500, 1000))
TINY_SIZES = ((64, 48), (48, 64), (40, 90))
OBJECTS = 24


@dataclass
class Measured:
    """Prompts answered, tokens written, seconds in all and inside the model's `generate`, most GiB held."""

    items: int = 0
    tokens: int = 0
    seconds: float = 0.0
    inside: float = 0.0
    gib: float = 0.0

    def line(self) -> str:
        return (
            f"{self.items / self.seconds:8.2f} items/s {self.tokens / self.seconds:9.1f} tokens/s "
            f"{self.inside / self.seconds:5.0%} of the time in generate {self.gib:6.2f} GiB at most"
        )


@dataclass
class Clock:
    """Counts the seconds that a model's `generate` takes, until the device is done."""

    model: Any
    seconds: float = 0.0
    real: Callable[..., Any] = field(init=False)

    def __enter__(self) -> Clock:
        self.real = self.model.generate

        def timed(*args: Any, **settings: Any) -> Any:
            began = now()
            said = self.real(*args, **settings)
            self.seconds += now() - began
            return said

        self.model.generate = timed
        return self

    def __exit__(self, *_: object) -> None:
        del self.model.generate


def now() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def requests(model: OpenWeightsModel, tiny: bool) -> Iterator[list[VisionRequest]]:
    """What is asked of OBJECTS pictures at a time, without end."""
    instructed = is_chat(model)
    asked = [Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question=q) for q in QUESTIONS]
    sizes, objects = (TINY_SIZES, 3) if tiny else (SIZES, OBJECTS)
    images = [noise(*sizes[k % len(sizes)], k) for k in range(objects)]
    while True:
        yield [
            VisionRequest(f"s3://b/{k}", enrichment, image)
            for k, image in enumerate(images)
            for enrichment in (asked if instructed else ASKED_OF_A_SCENE)
        ]


def module(model: Any) -> Any:
    """The torch module of a model whose weights are in memory."""
    return model.open_engine().weights.model


def processor(model: Any) -> Any:
    """Its processor."""
    return model.open_engine().weights.processor


def is_chat(model: Any) -> bool:
    """Whether it is prompted through a chat template."""
    return isinstance(model.open_engine().generator, ChatGenerator)


def ours(model: OpenWeightsModel, asked: Sequence[VisionRequest]) -> tuple[int, int]:
    """Answer with the adapter; the number of prompts and of tokens written."""
    replies = model.run(asked)
    for failure in filter(None, (reply.failure for reply in replies)):
        if failure.cause in (Cause.MODEL, Cause.OUT_OF_MEMORY):  # random words that cannot be read are no matter
            raise RuntimeError(failure.message)
    return len(replies), sum(reply.usage.output_tokens for reply in replies)


def plain(model: OpenWeightsModel, asked: Sequence[VisionRequest], size: int) -> tuple[int, int]:
    """Answer as the library's own examples do, `size` prompts at a time; likewise."""
    units = [GenerationRequest(r, p) for r in asked for p in model.prompts(r.enrichment, r.media.kind)]
    tokens, pad = 0, module(model).generation_config.pad_token_id
    for k in range(0, len(units), size):
        batch = units[k : k + size]
        texts = model.texts(batch) if is_chat(model) else [u.prompt.text for u in batch]
        images = [unit.request.media.pixels for unit in batch]  # type: ignore[union-attr]
        inputs = processor(model)(text=texts, images=images, padding=True, return_tensors="pt")
        inputs = inputs.to(module(model).device)
        inputs["pixel_values"] = inputs["pixel_values"].to(module(model).dtype)
        with torch.inference_mode():
            said = module(model).generate(**inputs, max_new_tokens=model.max_new_tokens, do_sample=False, num_beams=1)
        written = said[:, inputs["input_ids"].shape[1] :] if is_chat(model) else said[:, 1:]
        tokens += int((written != pad).sum())
    return len(units), tokens


def measure(model: OpenWeightsModel, way: Callable[..., tuple[int, int]], seconds: float, tiny: bool) -> Measured:
    """Go on for so many seconds, after a first turn that is not counted: in it batches find their size."""
    stream, done = requests(model, tiny), Measured()
    way(next(stream))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with Clock(module(model)) as clock:
        began = now()
        while not done.items or now() - began < seconds:
            items, tokens = way(next(stream))
            done.items, done.tokens = done.items + items, done.tokens + tokens
        done.seconds, done.inside = now() - began, clock.seconds
    if torch.cuda.is_available():
        done.gib = torch.cuda.max_memory_allocated() / 2**30
    return done


def compare(name: str, load: Callable[..., OpenWeightsModel], given: argparse.Namespace) -> None:
    """Print a line for each way with one model."""
    device = "cpu" if given.tiny else "cuda"
    model = load(device, given.tiny, max_new_tokens=4 if given.tiny else 32, batch_size=given.batch)
    prompts = given.batch * (len(QUESTIONS) if is_chat(model) else len(ASKED_OF_A_SCENE))
    ways: dict[str, Callable[..., tuple[int, int]]] = {"ours": lambda asked: ours(model, asked)}
    if is_chat(model):
        apart = model.model_copy(update={"share_prefix": False})
        apart.open_engine().adopt(module(model), processor(model))
        ways["ours, prefixes not shared"] = lambda asked: ours(apart, asked)
    ways["transformers alone"] = lambda asked: plain(model, asked, prompts)
    print(f"{name}, {given.batch} pictures or {prompts} prompts a batch", flush=True)
    for each, way in ways.items():
        print(f"  {each:26} {measure(model, way, given.seconds, given.tiny).line()}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each way")
    parser.add_argument("--models", nargs="+", choices=[shape.name for shape in SHAPES], metavar="MODEL")
    parser.add_argument("--batch", type=int, default=8, help="pictures")
    parser.add_argument("--tiny", action="store_true", help="shrunken models on a CPU")
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        print("there is no CUDA device here; --tiny runs the same code, shrunken, on a CPU")
        return 2
    if not given.tiny:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16")
    for shape in SHAPES:
        if not given.models or shape.name in given.models:
            compare(shape.name, shape.load, given)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
