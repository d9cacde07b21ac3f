"""Answers that never end, come a byte at a time, or unpack to gigabytes: bounded in bytes and seconds for every SDK."""

import gzip
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.models.engines.providers.rate_limits import RateLimiter
from sightflow.blocks.models.engines.providers.transport.bounded_answers import (
    MOST_BYTES,
    AnswerTooLarge,
    AnswerTooSlow,
    bounded,
    within,
)
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.failure import Cause, Failure
from tests.loopback.hosted_systems import CAPTION, GEMINI, GPT, QWEN, request
from tests.loopback.http_server import OnLoopback, QuietHandler
from tests.loopback.virtual_clock import VirtualClock

NAMES = ("gpt-4o", "gemini", "qwen-vl-max", "endpoint")
BOMB = gzip.compress(bytes(2 * MOST_BYTES))


def trickle_body(http: Any, closing: threading.Event) -> None:
    http.send_header("Content-Length", "1000000")
    http.end_headers()
    while not closing.wait(0.1):
        http.wfile.write(b" ")
        http.wfile.flush()


def trickle_headers(http: Any, closing: threading.Event) -> None:
    http.flush_headers()
    http.wfile.write(b"X-Slow: ")
    while not closing.wait(0.1):
        http.wfile.write(b"a")
        http.wfile.flush()


def endless(http: Any, closing: threading.Event) -> None:
    http.send_header("Transfer-Encoding", "chunked")
    http.end_headers()
    while not closing.is_set():
        http.wfile.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")


def bomb(http: Any, closing: threading.Event) -> None:
    http.send_header("Content-Encoding", "gzip")
    http.send_header("Content-Length", str(len(BOMB)))
    http.end_headers()
    http.wfile.write(BOMB)


@contextmanager
def asked(name: str, misbehave: Any, status: int) -> Iterator[Any]:
    """The outcome of one request to a system whose provider misbehaves so."""

    class Misbehaving(OnLoopback):
        def handler(self) -> type[QuietHandler]:
            closing = self.closing

            class Handler(QuietHandler):
                def do_POST(self) -> None:
                    self.rfile.read(int(self.headers["Content-Length"]))
                    self.send_response(status)
                    misbehave(self, closing)

            return Handler

    with Misbehaving() as server:
        if name == "endpoint":
            model: Any = Qwen2VL(
                id="Qwen/Qwen2-VL-2B-Instruct",
                engine="endpoint",
                endpoint_url=server.url,
                endpoint_timeout=0.5,
                max_attempts=1,
            )
        else:
            system = {"gpt-4o": GPT, "gemini": GEMINI, "qwen-vl-max": QWEN}[name]
            model = system.connect(SimpleNamespace(url=server.url), timeout=0.5, max_attempts=1)
        yield model.run([request(CAPTION)])[0].outcome


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("misbehave", [trickle_body, trickle_headers])
def test_an_answer_a_byte_at_a_time_is_given_up(name: str, misbehave: Any) -> None:
    with asked(name, misbehave, 200) as outcome:
        assert isinstance(outcome, Failure) and outcome.cause is Cause.MODEL
        assert "in time" in outcome.message or "no whole answer after 1 s" in outcome.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("misbehave", [endless, bomb])
def test_an_answer_without_end_is_read_no_further_than_the_bound_and_not_asked_for_again(
    name: str, misbehave: Any, status: int
) -> None:
    with asked(name, misbehave, status) as outcome:
        assert isinstance(outcome, Failure) and outcome.cause is Cause.MALFORMED
        assert "larger than 16 MiB" in outcome.message and outcome.attempts == 1


@given(st.binary(max_size=3000), st.sampled_from(["", "identity", "gzip", "deflate", "GZIP"]), st.integers(1, 50))
def test_what_is_within_the_bounds_comes_whole(content: bytes, encoding: str, size: int) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding.lower(), bytes)(content)
    chunks = [packed[k : k + size] for k in range(0, len(packed), size)]
    assert b"".join(bounded(chunks, encoding, time.monotonic() + 60)) == content


def test_the_bounds() -> None:
    later = time.monotonic() + 60
    assert len(b"".join(bounded([bytes(MOST_BYTES)], "", later))) == MOST_BYTES
    with pytest.raises(AnswerTooLarge):
        list(bounded([bytes(MOST_BYTES), b"x"], "", later))
    with pytest.raises(AnswerTooSlow):
        list(bounded([b"x"], "", time.monotonic() - 1))
    with pytest.raises(ValueError, match="br, which was not asked for"):
        list(bounded([b"x"], "br", later))
    with pytest.raises(AnswerTooSlow):
        within(0.01, threading.Event().wait)
    with pytest.raises(KeyError):
        within(60, lambda: {}["a"])
    assert within(60, lambda: 5) == 5


@given(
    st.sampled_from(["requests", "tokens"]),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.sampled_from(["999999999s", "9" * 400, "1e9", "3000d", "0s", "6h", "17ms", "nonsense"]),
    st.integers(1, 10**6),
)
def test_no_header_holds_requests_for_longer_than_the_longest_wait(
    what: str, limit: int, remaining: int, reset: str, tokens: int
) -> None:
    clock = VirtualClock()
    limiter = RateLimiter(None, None, clock, longest_wait=120)
    headers = {"limit": limit, "remaining": remaining}
    told = {f"x-ratelimit-{name}-{what}": str(value) for name, value in headers.items()}
    limiter.update_from_headers({**told, f"x-ratelimit-reset-{what}": reset})
    assert limiter.acquire(tokens, threading.Event()) is not None
    assert limiter.acquire(tokens, threading.Event()) is not None
    assert clock.now <= 240
