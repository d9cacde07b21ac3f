"""What a vendor had cached, wrote or heard is priced as such; questions about one object share their media."""

import threading
import time
from typing import Any

import pytest
from PIL import Image

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.vision import Usage
from tests.loopback.dashscope_api import DashScopeOnLoopback
from tests.loopback.gemini_api import GeminiOnLoopback
from tests.loopback.hosted_systems import ASK, CAPTION, GEMINI_OLD, GPT_NEXT, QWEN, REASON, System, request
from tests.loopback.openai_api import OpenAIOnLoopback
from tests.loopback.server import LoopbackProvider, Received, Say


class Cached(LoopbackProvider):
    """Has cached the media of what it has answered when a request arrives; `tell` writes that as the vendor does."""

    def __init__(self, behaviour: Any) -> None:
        super().__init__(self.arriving)
        self.known: set[Any] = set()
        self.hits = 0
        self._found: dict[int, bool] = {}
        self._knowing, self._behaves = threading.Lock(), behaviour

    def arriving(self, request: Received) -> Say:
        with self._knowing:
            self._found[request.number] = request.images[0].getpixel((0, 0)) in self.known
        time.sleep(0.02)  # as long as an answer takes: who asks at the same time finds nothing
        said: Say = self._behaves(request)
        return said

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        document = super().answer(request, said, input_tokens, output_tokens)
        with self._knowing:
            hit = self._found[request.number]
            self.hits += hit
            self.known.add(request.images[0].getpixel((0, 0)))
        self.tell(document, 600 if hit else 0)
        return document

    def tell(self, document: Any, cached: int) -> None:
        raise NotImplementedError


class CachingOpenAI(Cached, OpenAIOnLoopback):
    def tell(self, document: Any, cached: int) -> None:
        written = 0 if cached else 400
        document["usage"]["prompt_tokens_details"] = {"cached_tokens": cached, "cache_write_tokens": written}


class CachingGemini(Cached, GeminiOnLoopback):
    def tell(self, document: Any, cached: int) -> None:
        document["usageMetadata"]["cachedContentTokenCount"] = cached
        document["usageMetadata"]["promptTokensDetails"] = [
            {"modality": "VIDEO", "tokenCount": 900}, {"modality": "AUDIO", "tokenCount": 100}
        ]  # fmt: skip


class CachingDashScope(Cached, DashScopeOnLoopback):
    def tell(self, document: Any, cached: int) -> None:
        document["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}


EACH = pytest.mark.parametrize(
    "system, vendor",
    [(GPT_NEXT, CachingOpenAI), (GEMINI_OLD, CachingGemini), (QWEN, CachingDashScope)],
    ids=lambda each: getattr(each, "id", ""),
)


@EACH
def test_cached_written_and_heard_tokens_are_read_and_priced(system: System, vendor: type[Cached]) -> None:
    with vendor(lambda _: Say("A box.")) as provider:
        model = system.connect(provider)
        first, second = (model.run([request(CAPTION)])[0].usage for _ in range(2))
    assert (first.cached_input_tokens, second.cached_input_tokens) == (0, 600)
    assert first.cache_write_tokens == (400 if vendor is CachingOpenAI else 0)
    assert first.audio_input_tokens == (100 if vendor is CachingGemini else 0)
    rates = model.rates
    assert rates and rates.cached is not None
    assert second.cost_usd < first.cost_usd
    for usage in (first, second):
        plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens - usage.audio_input_tokens
        dollars = (
            plain * rates.input
            + usage.cached_input_tokens * rates.cached
            + usage.cache_write_tokens * (rates.written or rates.input)
            + usage.audio_input_tokens * (rates.audio or rates.input)
            + usage.output_tokens * rates.output
        ) / 1e6
        assert usage.cost_usd == pytest.approx(dollars)


@EACH
def test_a_second_question_about_an_object_finds_its_media_cached(system: System, vendor: type[Cached]) -> None:
    asked = (CAPTION, ASK, REASON)
    images = [Image.new("RGB", (64, 48), (k, 0, 0)) for k in range(6)]
    requests = [request(each, image, f"s3://b/{k}") for k, image in enumerate(images) for each in asked]
    # Of one object the pixels are decoded once for all that is asked.
    shared = [type(each)(each.uri, each.enrichment, requests[3 * (k // 3)].media) for k, each in enumerate(requests)]
    with vendor(lambda received: Say(received.texts[-1].strip()[:200])) as provider:
        replies = system.connect(provider, max_concurrency=4).run(shared)
    assert [(reply.uri, reply.enrichment) for reply in replies] == [(each.uri, each.enrichment.name) for each in shared]
    assert provider.hits == 12 and sum(reply.usage.cached_input_tokens for reply in replies) == 12 * 600


def test_many_questions_about_one_object_are_not_kept_waiting_for_each_other() -> None:
    together = threading.Barrier(4, timeout=20)

    def behave(_: Received) -> Say:
        together.wait()
        return Say("yes")

    first = request(CAPTION)
    questions = [Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question=f"{k}?") for k in range(3)]
    requests = [first, *(type(first)(first.uri, each, first.media) for each in questions)]
    with GPT_NEXT.on_loopback(behave) as provider:
        model = GPT_NEXT.connect(provider, max_concurrency=4)
        model.open_engine()._authenticated = True  # else the first goes alone
        replies = model.run(requests)
    assert [reply.failure for reply in replies] == [None] * 4


def test_usages_add_up_kind_by_kind() -> None:
    assert Usage(1, 2, 3.0, 4, 5, 6) + Usage(10, 20, 30.0, 40, 50, 60) == Usage(11, 22, 33.0, 44, 55, 66)
