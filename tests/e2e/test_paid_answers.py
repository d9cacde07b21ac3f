"""What has been answered may have been paid for: it is published, whatever ends the run, and not asked again."""

import threading
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import ModelError
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.runtime import loaded_models
from tests.e2e.test_ugly_inputs import encoded
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.hosted_systems import GEMINI, GPT, KEY, QWEN
from tests.loopback.server import LoopbackProvider, Received, Say, Status

pytestmark = pytest.mark.usefixtures("prefect_server")

COUNT, PAID = 120, 70
NO_CREDIT = {
    "gpt-4o": Status(429, code="insufficient_quota", message="You exceeded your current quota."),
    "gemini": Status(429, message="Your prepayment credits are depleted."),
    "qwen-vl-max": Status(400, code="Arrearage", message="Access denied."),
    "qwen2-vl": Status(402, message="Insufficient credits."),
}


class Credit:
    """Pays for so many answers; what is asked beyond them is declined. Which picture was answered, its red says."""

    def __init__(self, system: str, answers: int) -> None:
        self.left, self.declined = answers, NO_CREDIT[system]
        self.answered: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self, received: Received) -> Say | Status:
        with self._lock:
            if not self.left:
                return self.declined
            self.left -= 1
            self.answered[received.images[0].getpixel((0, 0))[0]] += 1
            return Say("a plain picture")


def provider_of(system: str, credit: Credit) -> AbstractContextManager[LoopbackProvider]:
    hosted = {"gpt-4o": GPT, "gemini": GEMINI, "qwen-vl-max": QWEN}.get(system)
    return hosted.on_loopback(credit) if hosted else EndpointOnLoopback(credit)


def settings_of(system: str, url: str) -> dict[str, Any]:
    if system == "qwen2-vl":
        return {"id": "Qwen/Qwen2-VL-2B-Instruct", "engine": "endpoint", "endpoint_url": url, "max_concurrency": 4}
    return {"base_url": url, "max_concurrency": 4}


@pytest.mark.parametrize(
    ("system", "shards_ahead"), [("gpt-4o", 1), ("gemini", 4), ("qwen-vl-max", 4), ("qwen2-vl", 4)]
)
def test_credit_that_ends_costs_no_answer_and_the_next_run_asks_exactly_the_rest(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch, system: str, shards_ahead: int
) -> None:
    for variable in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "DASHSCOPE_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setattr(loaded_models, "_LOADED", {})
    (tmp_path / "media").mkdir()
    for k in range(COUNT):
        (tmp_path / "media" / f"{k:03d}.png").write_bytes(encoded(Image.new("RGB", (16, 16), (k, 0, 0))))
    credit = Credit(system, PAID)
    with provider_of(system, credit) as provider:
        spec = read_spec(
            write_spec(
                f"{tmp_path}/media/*",
                models={system: settings_of(system, provider.url)},
                enrichments=[{"capability": "image captioning", "name": "caption", "model": system}],
                policy={"shards_ahead": shards_ahead, "shard_size": 50, "commit_rows": 1, "hosted": "allow"},
            )
        )
        with pytest.raises(ModelError, match=system):
            enrich(spec)
        catalog = Catalog(uri=spec.catalog)
        assert catalog.scan("enrichments").collect().height == PAID
        assert catalog.scan("quarantine").collect().is_empty()
        credit.left = COUNT
        report = enrich(spec)
    assert report.published == COUNT - PAID
    assert credit.answered == Counter(range(COUNT)), "each once"
