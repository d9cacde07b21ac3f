"""How many objects a batch holds: as asked, or as many as the device's memory has been seen to hold."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

FIRST = 8
"""Objects in the first batches, and in all of them where nobody can say what memory they take."""
MOST = 32
"""Objects that a batch grows to: beyond it little is gained, and twice as many wait decoded in the host's memory."""
_SHARE = 0.8
"""Of the memory that is free beside the weights."""


class MemoryMeter(Protocol):
    """What is asked of a device about its memory, in bytes."""

    def start(self) -> None:
        """Count from what is held now."""

    def peak(self) -> int:
        """The most that was held since `start`, beyond what was held then."""

    def free(self) -> int:
        """What could still be taken now."""


class CudaMeter:
    """The allocator of torch on one GPU."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda, self._device, self._held = torch.cuda, torch.device(device), 0

    def start(self) -> None:
        self._cuda.reset_peak_memory_stats(self._device)
        self._held = self._cuda.memory_allocated(self._device)

    def peak(self) -> int:
        return int(self._cuda.max_memory_allocated(self._device)) - self._held

    def free(self) -> int:
        kept = self._cuda.memory_reserved(self._device) - self._cuda.memory_allocated(self._device)
        return int(self._cuda.mem_get_info(self._device)[0]) + int(kept)


class BatchSize:
    """The size of the next batch in objects, `now`, for one model on one device and one kind of question.

    With a meter it doubles from batch to batch until the next step would take more than four fifths of the free memory,
    or MOST; without, it stays. A size at which memory ended is not tried again. What was found is kept in `file` under
    `key`, if there is one, so that it is found once.
    """

    def __init__(self, first: int, meter: MemoryMeter | None = None, file: Path | None = None, key: str = "") -> None:
        self._meter, self._file, self._key = meter, file, key
        found = _read(file).get(key) if file else None
        known = found if isinstance(found, int) and 1 <= found <= MOST else None
        self.now: int = known or first
        self._growing = meter is not None and known is None
        self._too_many: int | None = None
        self._before: tuple[int, int | None, bool] = (self.now, None, self._growing)
        self._an_object = 0.0

    def allows(self, objects: int) -> bool:
        """Whether so many are worth a try: one always is."""
        return objects == 1 or self._too_many is None or objects < self._too_many

    def begin(self) -> None:
        """A batch begins."""
        self._before = (self.now, self._too_many, self._growing)
        if self._growing and self._meter is not None:
            self._meter.start()

    def failed(self, objects: int) -> None:
        """Memory ended in a batch of so many, or in a part of it: none as large is tried again."""
        if objects > 1:
            self._too_many = min(objects, self._too_many or objects)
            self.now = min(self.now, max(objects // 2, 1))
            self._growing = False

    def end(self, objects: int, culprit: bool) -> None:
        """The batch that began is done; if one object did not even fit alone, it is to blame, and not the size."""
        if culprit:
            self.now, self._too_many, self._growing = self._before
        elif self.now < self._before[0]:
            self._keep()
        elif self._growing and objects >= self.now:
            self._grow(objects)

    def _grow(self, objects: int) -> None:
        assert self._meter is not None
        self._an_object = max(self._an_object, self._meter.peak() / objects, 1.0)
        fits = int(_SHARE * self._meter.free() / self._an_object)
        size = max(1, min(2 * self.now, fits, MOST))
        self._growing = size > self.now
        self.now = size
        if not self._growing:
            self._keep()

    def _keep(self) -> None:
        if self._file is None:
            return
        with suppress(OSError):  # a home that cannot be written costs a search, not a run
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False) as new:
                json.dump(_read(self._file) | {self._key: self.now}, new, indent=1)
            Path(new.name).replace(self._file)


def batch_size_file() -> Path:
    """The file in the user's cache folder in which the sizes that were found are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightflow" / "batch-sizes.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
