"""Runs vLLM of the environment that `make test-vllm` builds, in a process or as a server, and `transformers serve`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sightflow.infra.demo.bucket import VIDEO_MODEL_FOLDER
from sightflow.schemas.vision import VisionRequest
from tests.vllm.exchange import Said, read_replies, write_requests

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = ROOT / ".tools" / "vllm"
READY: Final = ENVIRONMENT / "ready"
DEMO: Final = str(VIDEO_MODEL_FOLDER)
_LONGEST_START: Final = 400.0  # seconds, on a machine that does much else


class InProcess(NamedTuple):
    """What came of asking: replies, or what each try to start said with its seconds; and what was on the screen."""

    replies: list[Said]
    failed_starts: list[tuple[str, float]]
    screen: str


class Server(NamedTuple):
    """A server's address, and the weights that it serves."""

    url: str
    weights: str


def environment(**more: str) -> dict[str, str]:
    """As a user of vLLM's environment would have it; nothing is said of its log."""
    own = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    return inherited | own | more


def ask_in_process(requests: Sequence[VisionRequest], folder: Path, **settings: Any) -> InProcess:
    """What `engine: vllm` says of requests, in a process of vLLM's environment."""
    write_requests(requests, folder)
    command = [ENVIRONMENT / "bin" / "python", "-m", "tests.vllm.ask", str(folder), json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    screen = done.stdout + done.stderr
    assert done.returncode == 0, screen[-3000:]
    if (folder / "error.json").exists():
        return InProcess([], [(why, took) for why, took in json.loads((folder / "error.json").read_text())], screen)
    return InProcess(read_replies(folder / "replies.json"), [], screen)


@contextmanager
def server(weights: str, max_model_len: int, **variables: str) -> Iterator[Server]:
    """vLLM's server with these weights, started as its documentation says, but by the module: the command `vllm` asks
    for a distribution of that name.
    """
    port = _free_port()
    command: list[Any] = [ENVIRONMENT / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", weights, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(max_model_len)]
    command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
    command += ["--trust-request-mm-kwargs", "--enable-prompt-tokens-details"]
    own = environment(VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="WARNING", **variables)
    with _served(command, port, own, ENVIRONMENT / f"server-{port}.log"):
        yield Server(f"http://127.0.0.1:{port}/v1", weights)


@contextmanager
def transformers_server(weights: str) -> Iterator[Server]:
    """`transformers serve` of this environment with these weights, on one thread of the CPU."""
    port = _free_port()
    command: list[Any] = [Path(sys.executable).with_name("transformers"), "serve", weights, "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, _served(command, port, environment(), Path(folder, "server.log")):
        yield Server(f"http://127.0.0.1:{port}/v1", weights)


@contextmanager
def _served(command: list[Any], port: int, variables: dict[str, str], log: Path) -> Iterator[None]:
    """Run a server until the block ends; wait until it answers."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + _LONGEST_START
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.unlink()


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
