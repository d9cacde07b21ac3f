"""What every contender is given, and the clock it starts and stops; standard library and psutil only."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

AT_ONCE = 16
"""Images a call of the model."""
AHEAD = 64
"""Images that may be fetched before they are asked about, where a contender has a setting for it."""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Job:
    """One bucket to caption; `begin` after imports and the model, `end` when the last row is on the disk."""

    endpoint: str
    bucket: str
    prefix: str
    model: str
    weights: str
    out: Path
    began: float = 0.0
    ended: float = 0.0
    memory: Memory = field(default_factory=lambda: Memory())

    def begin(self) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self.ended = time.monotonic()

    def key(self, uri: str) -> str:
        """The key of `s3://bucket/key`, or of `bucket/key` as some libraries write it."""
        return uri.removeprefix("s3://").removeprefix(f"{self.bucket}/")

    def client(self) -> Any:
        """An S3 client of boto3 with a connection for each of 32 threads."""
        import boto3
        from botocore.config import Config

        path_style = Config(max_pool_connections=32, s3={"addressing_style": "path"})
        return boto3.client("s3", endpoint_url=self.endpoint, config=path_style)

    def keys(self, client: Any) -> list[str]:
        """Every key under the prefix."""
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


class Memory:
    """The most memory that this process and all below it held together, and it alone; looked at four times a second."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.own_peak_bytes = 0
        self._stop = threading.Event()

    def watch(self) -> None:
        """Look until `stop`. A server that detaches itself stays below this process: counted, and ended with it."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        atexit.register(lambda: end_all(psutil.Process().children(recursive=True)))
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _look(self) -> None:
        this = psutil.Process(os.getpid())
        while not self._stop.wait(0.25):
            own, others = _share(this), sum(map(_share, this.children(recursive=True)))
            self.peak_bytes = max(self.peak_bytes, own + others)
            self.own_peak_bytes = max(self.own_peak_bytes, own)


def end_all(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that still run."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _share(process: psutil.Process) -> int:
    """A process's memory, pages shared with others by their share, so that a sum over processes is the truth."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # ended meanwhile
        return 0
