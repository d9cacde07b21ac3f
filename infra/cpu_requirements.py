"""requirements.lock without the CUDA builds, for a machine that has no GPU: gigabytes less to fetch.

    python infra/cpu_requirements.py requirements.lock           # everything else, with its hashes
    python infra/cpu_requirements.py requirements.lock --torch   # torch==X torchvision==Y, to be had as CPU builds

The CPU builds of torch and torchvision are on an index of their own, which uv knows by name:
`uv pip install --torch-backend cpu torch==X torchvision==Y`. Uses the standard library alone, so that it runs before
anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.IGNORECASE)
_CUDA = re.compile(r"^(torch|torchvision|triton|nvidia-.*|cuda-.*)$")
_TORCH = ("torch", "torchvision")


def entries(lock: str) -> list[tuple[str, str, str]]:
    """Name, version and text of each requirement, its hashes and comments included."""
    starts = list(re.finditer(r"^(?=[a-z0-9])", lock, re.MULTILINE | re.IGNORECASE))
    ends = [match.start() for match in starts[1:]] + [len(lock)]
    found = []
    for start, end in zip(starts, ends, strict=True):
        text = lock[start.start() : end]
        pinned = _PINNED.match(text)
        if pinned is None:
            raise ValueError(f"not a pinned requirement: {text[:80]!r}")
        found.append((pinned[1].lower(), pinned[2], text))
    return found


def without_cuda(lock: str) -> str:
    """The lock without torch and what its CUDA builds bring."""
    return "".join(text for name, _, text in entries(lock) if not _CUDA.match(name))


def torch_pins(lock: str) -> str:
    """The versions of torch and torchvision that are locked, as requirements."""
    return "\n".join(f"{name}=={version}" for name, version, _ in entries(lock) if name in _TORCH)


if __name__ == "__main__":
    content = Path(sys.argv[1]).read_text()
    print(torch_pins(content) if "--torch" in sys.argv else without_cuda(content))
