"""The webhook: whoever calls it, and however, it goes on, and what it has answered 200 is durable."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from sightflow.infra.service.bounded_http import HttpLimits
from sightflow.infra.service.notification_sources import webhook as webhook_module
from sightflow.infra.service.notification_sources.webhook import WEBHOOK_TOKEN, Webhook
from sightflow.schemas.failure import SpecError
from tests.e2e.service import until

Make = Callable[..., Webhook]


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make one that is taken down with the test."""
    monkeypatch.delenv(WEBHOOK_TOKEN, raising=False)
    made: list[Webhook] = []

    def make(**settings: Any) -> Webhook:
        limits = HttpLimits(**settings.pop("limits", {}))
        made.append(Webhook("127.0.0.1", 0, limits, **settings))
        return made[-1]

    yield make
    for each in made:
        each._server.shutdown()
        each._server.server_close()


def asked(webhook: Webhook, request: bytes, seconds: float = 30) -> bytes:
    """What is answered to these bytes."""
    with dialled(webhook) as connection:
        connection.settimeout(seconds)
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def dialled(webhook: Webhook) -> socket.socket:
    return socket.create_connection(webhook._server.server_address[:2], timeout=30)


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def goes_on(webhook: Webhook) -> bool:
    """Whether a proper notification is taken and answered 200."""
    with httpx.Client() as client:
        answers: list[int] = []
        caller = threading.Thread(
            target=lambda: answers.append(client.post(webhook.address, content=b"ok").status_code)
        )
        caller.start()
        messages = webhook.receive(10)
        webhook.delete(messages)
        caller.join(10)
    return answers == [200] and [message.body for message in messages] == ["ok"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_a_token_it_listens_for_this_machine_alone(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_TOKEN, raising=False)
    with pytest.raises(SpecError, match=WEBHOOK_TOKEN):
        Webhook(host, 0)


def test_with_a_token_it_listens_for_others_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_TOKEN, "a-long-secret")
    webhook = Webhook("0.0.0.0", 0)
    assert httpx.head(webhook.address).status_code == 200


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer gehei", 401),
        ("Bearer geheim!", 401),
        ("Bearer geheimß", 200),
        ("geheimß", 200),
    ],
)
def test_the_token_is_compared_whole_and_at_constant_time(
    webhook: Make, monkeypatch: pytest.MonkeyPatch, header: str | None, expected: int
) -> None:
    monkeypatch.setenv(WEBHOOK_TOKEN, "geheimß")
    compared: list[tuple[int, int]] = []
    compare = webhook_module.hmac.compare_digest

    def spied(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return bool(compare(one, other))

    monkeypatch.setattr(webhook_module.hmac, "compare_digest", spied)
    made = webhook()
    threading.Thread(target=lambda: made.delete(made.receive(5)), daemon=True).start()
    headers = [] if header is None else [(b"Authorization", header.encode())]
    assert httpx.post(made.address, content=b"x", headers=headers).status_code == expected
    assert compared == [(32, 32)], "digests, which are of one length"


def test_what_was_answered_503_is_dropped(webhook: Make) -> None:
    made = webhook(patience=0.2)
    assert httpx.post(made.address, content=b"late").status_code == 503
    assert made.receive(0.1) == []
    assert goes_on(made)


def test_more_than_the_queue_holds_is_answered_503_at_once(webhook: Make) -> None:
    made = webhook(most_waiting=2)
    callers = [
        threading.Thread(target=httpx.post, args=(made.address,), kwargs={"content": b"x"}, daemon=True)
        for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    until(lambda: len(made._waiting._messages) == 2, 10, "two wait")
    began = time.monotonic()
    assert httpx.post(made.address, content=b"third").status_code == 503
    assert time.monotonic() - began < 5
    made.delete(made.receive(1))
    assert goes_on(made)


def test_connections_are_bounded_and_the_one_too_many_is_answered_503(webhook: Make) -> None:
    made = webhook(limits={"connections": 3, "request_seconds": 2})
    silent = [dialled(made) for _ in range(3)]

    def knock() -> int:
        try:
            return status(asked(made, b"HEAD / HTTP/1.0\r\n\r\n"))
        except OSError:  # it is closed before the request is read
            return 503

    assert knock() == 503
    until(lambda: knock() == 200, 15, "silent ones are cut off")
    assert all(connection.recv(1) == b"" for connection in silent)
    assert goes_on(made)


BEGINNINGS = {
    "line": b"",
    "headers": b"POST / HTTP/1.1\r\nX: ",
    "body": b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
}


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=list(BEGINNINGS))
def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(webhook: Make, begin: bytes) -> None:
    made = webhook(limits={"request_seconds": 1.0})
    with dialled(made) as connection:
        connection.sendall(begin)
        connection.settimeout(0.2)
        began = time.monotonic()
        cut = False
        while not cut and time.monotonic() - began < 20:
            try:
                connection.sendall(b"x")
                cut = connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                cut = True
        assert cut and time.monotonic() - began < 10
    assert goes_on(made)


def test_too_many_bytes_are_not_read(webhook: Make) -> None:
    made = webhook(limits={"header_bytes": 2000, "body_bytes": 100})
    assert httpx.post(made.address, content=b"x" * 101).status_code == 413
    assert httpx.post(made.address, content=b"x" * 10_000_000).status_code == 413
    assert status(asked(made, b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 1500 + b"\r\n\r\n")) == 413
    long = b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 400 + b"Content-Length: 2\r\n\r\nok"
    assert status(asked(made, long)) == 431
    assert status(asked(made, b"POST / HTTP/1.1\r\nX: " + b"y" * 100_000)) == 431
    assert b"200" not in asked(made, b"POST /" + b"y" * 100_000 + b" HTTP/1.1\r\n\r\n")
    assert goes_on(made)


MALFORMED = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a line without an end": b"POST",
    "version": b"POST / HTTP/9.9.9\r\n\r\n",
    "method": b"BREW / HTTP/1.1\r\n\r\n",
    "header": b"POST / HTTP/1.1\r\n\xff\xfe\r\nContent-Length: 1\r\n\r\nx",
    "no length": b"POST / HTTP/1.1\r\n\r\nx",
    "length that is a digit and no number": b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\nx",
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\nx",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "half a body": b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=list(MALFORMED))
def test_what_is_malformed_is_no_message_and_ends_nothing(
    webhook: Make, request_bytes: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    made = webhook()
    answer = asked(made, request_bytes)
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert made.receive(0.05) == []
    assert goes_on(made)
    assert "Traceback" not in capfd.readouterr().err


def test_a_thread_that_cannot_be_started_costs_one_connection(webhook: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = webhook(limits={"connections": 1})
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    connection = socket.socket()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    connection.connect(made._server.server_address[:2])
    assert connection.recv(1) == b""
    assert goes_on(made)


def test_it_listens_on_ipv6_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_TOKEN, raising=False)
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    made = Webhook("::1", 0)
    assert made.address.startswith("http://[::1]:") and httpx.head(made.address).status_code == 200
