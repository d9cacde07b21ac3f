"""Our rate through vLLM and at servers over that of a bare loop, with the same weights, pictures and words.

    make bench-vllm        (python -m benchmarks.models.vllm_rate in vLLM's environment)
    python -m benchmarks.models.vllm_rate --only transformers        (`transformers serve`, in any environment)

In process: `engine: vllm` beside one call of `vllm.LLM.generate` on the same instance. At vLLM's server and at that of
transformers: `engine: endpoint` beside the published client in as many threads, with the same files. Each loop is given
decoded pictures and ends with captions; what vLLM keeps of pictures and prompts is cleared before each. They take
turns, and the best of each counts, by the clock and by the time of the processors, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psutil
from PIL import Image

from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, TextResult
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Policy
from sightflow.schemas.vision import VisionRequest
from tests.vllm import runs

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING, name="caption")
MAX_MODEL_LEN = 1024

Loop = Callable[[], list[str]]


def pictures(count: int) -> list[Image.Image]:
    return [draw_scene(seed).image.convert("RGB") for seed in range(count)]


def through(model: Qwen2VL, images: Sequence[Image.Image]) -> list[str]:
    """Captions by a model of ours, as many objects and calls at a time as a run gives it with its shards."""
    asked = [
        VisionRequest(f"s3://b/{k}", CAPTION, DecodedImage(image, *image.size, "0" * 64))
        for k, image in enumerate(images)
    ]
    at_once = model.objects_at_once
    calls = [asked[k : k + at_once] for k in range(0, len(asked), at_once)]
    with ThreadPoolExecutor(model.runs_at_once or Policy().shards_ahead) as pool:
        replies = [reply for answered in pool.map(model.run, calls) for reply in answered]
    return [reply.outcome.text for reply in replies if isinstance(reply.outcome, TextResult)]


def in_process(images: Sequence[Image.Image], weights: str) -> Iterator[tuple[str, Loop, Loop, Callable[[], None]]]:
    """Ours and the bare loop, and what clears vLLM's caches."""
    from vllm import SamplingParams

    model = Qwen2VL(id=weights, engine="vllm", max_model_len=MAX_MODEL_LEN)
    model.prepare()
    llm: Any = model.open_engine()._llm  # type: ignore[attr-defined]
    (prompt,) = model.prompts(CAPTION, MediaKind.IMAGE)
    processor: Any = model._processor
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.text}]}]
    text = processor.apply_chat_template(said, add_generation_prompt=True)

    def bare() -> list[str]:
        asked = [{"prompt": text, "multi_modal_data": {"image": image}} for image in images]
        made = llm.generate(asked, SamplingParams(temperature=0.0, max_tokens=prompt.max_new_tokens), use_tqdm=False)
        return [each.outputs[0].text.strip() for each in made]

    def clear() -> None:
        llm.reset_mm_cache()
        llm.reset_prefix_cache()

    yield "engine: vllm over vllm.LLM.generate", lambda: through(model, images), bare, clear


def at_the_server(images: Sequence[Image.Image], weights: str) -> Iterator[tuple[str, Loop, Loop, Callable[[], None]]]:
    """Ours and the bare client, and what clears the caches of vLLM's server."""
    with runs.server(weights, MAX_MODEL_LEN, VLLM_SERVER_DEV_MODE="1") as server:

        def clear() -> None:
            for cache in ("mm", "prefix"):
                address = f"{server.url.removesuffix('/v1')}/reset_{cache}_cache"
                urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=60).close()

        yield "engine: endpoint over openai's client, vLLM's server", *_asked_at(server.url, images, weights), clear


def at_transformers(
    images: Sequence[Image.Image], weights: str
) -> Iterator[tuple[str, Loop, Loop, Callable[[], None]]]:
    """Ours and the bare client at `transformers serve`, which keeps nothing of what it was asked."""
    with runs.transformers_server(weights) as server:
        loops = _asked_at(server.url, images, weights)
        yield "engine: endpoint over openai's client, transformers serve", *loops, lambda: None


def _asked_at(url: str, images: Sequence[Image.Image], weights: str) -> tuple[Loop, Loop]:
    """Ours, and the published client in as many threads, whose pictures are made into the same files."""
    import openai

    model = Qwen2VL(id=weights, engine="endpoint", endpoint_url=url)
    model.prepare()
    (prompt,) = model.prompts(CAPTION, MediaKind.IMAGE)
    client = openai.OpenAI(base_url=url, api_key="none")

    engine: Any = model.open_engine()

    def one(image: Image.Image) -> str:
        request = VisionRequest("s3://b", CAPTION, DecodedImage(image, *image.size, "0" * 64))
        url = engine.encode_media(request)[0].data_url
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt.text}]
        messages: Any = [{"role": "user", "content": content}]
        made = client.chat.completions.create(
            model=weights, messages=messages, temperature=0.0, max_tokens=prompt.max_new_tokens
        )
        return (made.choices[0].message.content or "").strip()

    def bare() -> list[str]:
        with ThreadPoolExecutor(model.max_concurrency) as pool:
            return list(pool.map(one, images))

    return lambda: through(model, images), bare


class Turn(NamedTuple):
    """What one pass of a loop took, in seconds and in seconds of the processors, and what it gave."""

    seconds: float
    cpu_seconds: float
    said: list[str]


def turn(loop: Loop, clear: Callable[[], None], wanted: int) -> Turn:
    clear()
    began, spent = time.perf_counter(), _cpu_seconds()
    said = loop()
    taken = Turn(time.perf_counter() - began, _cpu_seconds() - spent, said)
    assert len(said) == wanted, f"{len(said)} captions of {wanted}"
    return taken


def _cpu_seconds() -> float:
    """Of this process and those that it started, vLLM's among them."""
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True)))


def main() -> None:
    """Measure and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--weights", default=runs.DEMO)
    parser.add_argument("--only", choices=["process", "server", "transformers"])
    given = parser.parse_args()
    images = pictures(given.pictures)
    print(f"{given.pictures} pictures, {len(os.sched_getaffinity(0))} cores")
    print("| ratio | of processor time | what | ours, pictures/s | bare, pictures/s | same captions |")
    print("| --: | --: | --- | --: | --: | --: |")
    ways = {"process": in_process, "server": at_the_server, "transformers": at_transformers}
    for name, measured in ways.items():
        for what, ours, bare, clear in measured(images, given.weights) if given.only in (None, name) else ():
            wanted = len(images)
            turn(ours, clear, wanted)  # what is done once is done
            turns = [(turn(ours, clear, wanted), turn(bare, clear, wanted)) for _ in range(given.rounds)]
            own, other = (min(each[k].seconds for each in turns) for k in (0, 1))
            own_cpu, other_cpu = (min(each[k].cpu_seconds for each in turns) for k in (0, 1))
            alike = sum(a == b for a, b in zip(turns[0][0].said, turns[0][1].said, strict=True))
            rates = f"{wanted / own:.1f} | {wanted / other:.1f}"
            cpu = f"{other_cpu / own_cpu:.2f}"
            print(f"| {other / own:.2f} | {cpu} | {what} | {rates} | {alike} of {wanted} |", flush=True)


if __name__ == "__main__":
    main()
