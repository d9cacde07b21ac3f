"""The two models, for every contender alike: plain transformers and Pillow, none of Sightflow's code.

A captioner leaves two notes in the folder it is given: when it gave its first caption, and how long it took to load
(libraries included), for some contenders load it in a process of their own after the clock has started.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from PIL import Image

SECONDS_AN_IMAGE = 0.020


class Captioner(Protocol):
    """A caption for each RGB image, in order."""

    def __call__(self, images: Sequence[Image.Image]) -> list[str]: ...


@cache
def open_captioner(model: str, weights: str, out: str) -> Captioner:
    """The model `demo` or `device`, opened once a process."""
    began = time.monotonic()
    opened: Captioner = Florence2(weights, out) if model == "demo" else Device(out)
    Path(out, f"loaded-{os.getpid()}").write_text(repr((began, time.monotonic())))
    return opened


class Florence2:
    """The Florence-2 of a folder on the CPU, with as many threads as there are cores; greedy."""

    def __init__(self, weights: str, out: str) -> None:
        import torch
        from transformers import AutoProcessor, Florence2ForConditionalGeneration

        torch.set_num_threads(os.cpu_count() or 1)
        self._out = out
        self._processor = AutoProcessor.from_pretrained(weights, local_files_only=True)
        self._model = Florence2ForConditionalGeneration.from_pretrained(weights, local_files_only=True).eval()

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        import torch

        text = ["<CAPTION>"] * len(images)
        inputs = self._processor(text=text, images=list(images), return_tensors="pt", padding=True)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, do_sample=False, num_beams=1)
        captions = self._processor.batch_decode(tokens, skip_special_tokens=True)
        _note_first(self._out)
        return [caption.strip() for caption in captions]


class Device:
    """Holds one device 20 ms an image without CPU, whichever processes or threads ask at once; says the size."""

    def __init__(self, out: str) -> None:
        self._out = out

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        with open(Path(self._out, "device.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            time.sleep(SECONDS_AN_IMAGE * len(images))
        _note_first(self._out)
        return [f"{image.width} by {image.height}" for image in images]


def _note_first(out: str) -> None:
    with suppress(FileExistsError), open(Path(out, "first"), "x") as note:
        note.write(repr(time.monotonic()))
