"""Asks a model with `engine: vllm`, in an environment that has vLLM, what lies in a folder of requests.

    python -m tests.vllm.ask FOLDER SETTINGS

`SETTINGS`: of Qwen2-VL, as JSON. Writes `replies.json`, or `error.json`: what each of two tries to start it said, and
the seconds that they took.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.failure import ModelError
from tests.vllm.exchange import read_requests, write_replies


def main() -> None:
    """Ask, or say why that could not be."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    requests, told = read_requests(folder), []
    for _ in range(2):  # as two shards would, each with a model of its own
        began = time.monotonic()
        try:
            replies = Qwen2VL(engine="vllm", **settings).run(requests)
        except ModelError as error:
            told.append((str(error), time.monotonic() - began))
        else:
            write_replies(replies, folder / "replies.json")
            return
    (folder / "error.json").write_text(json.dumps(told))


if __name__ == "__main__":  # the processes that vLLM starts import this file again
    main()
