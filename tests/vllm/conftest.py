"""These tests need an environment of a few GB, so they are left out unless they are asked for: `make test-vllm`."""

import os
from collections.abc import Iterator

import pytest

from tests.vllm import runs

collect_ignore_glob = [] if os.environ.get("SIGHTFLOW_TEST_VLLM") else ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _vllm_is_there() -> None:
    if not runs.READY.exists():
        pytest.skip("vLLM's packages could not be had here")


@pytest.fixture(scope="session")
def demo_server() -> Iterator[runs.Server]:
    """vLLM's server with the demo's Qwen2-VL."""
    with runs.server(runs.DEMO, max_model_len=1024) as address:
        yield address


@pytest.fixture(scope="session")
def tiny_server(tiny_weights: str) -> Iterator[runs.Server]:
    """vLLM's server with a tiny Qwen2.5-VL of random weights, which has Qwen's own vocabulary."""
    with runs.server(tiny_weights, max_model_len=2048) as address:
        yield address


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.tiny_models import qwen_vl

    # vLLM's attention on a CPU wants heads of 32 numbers or more.
    return str(qwen_vl.build(tmp_path_factory.mktemp("weights"), "qwen2_5_vl", head=32))
