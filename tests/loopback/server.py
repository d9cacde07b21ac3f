"""A provider on loopback: real HTTP, requests held to the SDK's published types, and misbehaviour on demand."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from PIL import Image

from tests.loopback.http_server import OnLoopback, QuietHandler


@dataclass(frozen=True)
class Received:
    """One request as the provider understood it."""

    number: int  # from 0, in order of arrival
    model: str
    key: str
    texts: tuple[str, ...]  # of all turns, in order
    images: tuple[Image.Image, ...]
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def is_repair(self) -> bool:
        return "cannot be read" in self.texts[-1]


@dataclass(frozen=True)
class Status:
    """Decline with an HTTP status; `code` is the vendor's own."""

    status: int
    code: str = "error"
    message: str = "declined"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stall:
    """Take the request and say nothing until the server closes."""


@dataclass(frozen=True)
class HangUp:
    """Take the request and close the connection without a word."""


@dataclass(frozen=True)
class CutBody:
    """Announce a whole answer and break off in its middle."""


@dataclass(frozen=True)
class Body:
    """Answer 200 with these bytes, whatever they are."""

    content: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Say:
    """Answer with this text; `kind`: also refusal, blocked (before the model), empty, no_choices, truncated."""

    text: str = ""
    kind: str = "text"
    model: str | None = None


Reaction = Status | Stall | HangUp | CutBody | Body | Say
Behaviour = Callable[[Received], Reaction]


class LoopbackProvider(OnLoopback):
    """A provider whose behaviour is a function from a request to a reaction. Use as a context manager."""

    headers: Mapping[str, str]

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.headers = {}
        self.received: list[Received] = []
        self.complaints: list[str] = []
        self.billed_tokens: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()  # whole answers, by what the last turn says and the first pixel
        self.most_in_flight = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    # --- what a vendor says ---------------------------------------------------------------------

    base_path = ""

    def understand(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[str, str, list[str], list[bytes]]:
        """Model, key, texts and pictures; raises ValueError if the request breaks the published types."""
        raise NotImplementedError

    def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
        raise NotImplementedError

    def error(self, declined: Status) -> Any:
        raise NotImplementedError

    def bill(self, request: Received, said: Say) -> tuple[int, int]:
        """How many tokens are counted, in and out."""
        return 1000 + len(request.texts[0]), max(1, len(said.text) // 4)

    def aside(self, http: BaseHTTPRequestHandler, method: str) -> bool:
        """Answer what is no question to the model, an upload, say; False if it is one."""
        return False

    # --- HTTP -----------------------------------------------------------------------------------

    def handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                provider.aside(self, "POST") or provider._handle(self)

            def do_GET(self) -> None:
                provider.aside(self, "GET")

            def do_DELETE(self) -> None:
                provider.aside(self, "DELETE")

        return Handler

    @property
    def url(self) -> str:
        return super().url + self.base_path

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        content = http.rfile.read(int(http.headers["Content-Length"]))
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            self._react(http, content)
        finally:
            with self._lock:
                self._in_flight -= 1

    def _react(self, http: BaseHTTPRequestHandler, content: bytes) -> None:
        headers = {name.lower(): value for name, value in http.headers.items()}
        try:
            body = json.loads(content)
            model, key, texts, files = self.understand(http.path, body, headers)
            images = tuple(Image.open(io.BytesIO(file)).convert("RGB") for file in files)
        except Exception as error:
            self.complaints.append(f"{type(error).__name__}: {error}")
            self._reply(http, 400, self.error(Status(400, "invalid_request", str(error)[:300])))
            return
        with self._lock:
            request = Received(len(self.received), model, key, tuple(texts), images, body, headers)
            self.received.append(request)
        match self.behaviour(request):
            case Status() as declined:
                self._reply(http, declined.status, self.error(declined), declined.headers)
            case Stall():
                self.closing.wait()
            case HangUp():
                http.close_connection = True
            case CutBody():
                self._reply(http, 200, self.answer(request, Say("cut"), 1, 1), cut=True)
            case Body() as odd:
                self._send(http, 200, odd.content, odd.content_type, {})
            case Say() as said:
                self._reply(http, 200, self.answer(request, said, *self._billed(request, said)))

    def _billed(self, request: Received, said: Say) -> tuple[int, int]:
        """The tokens of a whole answer, put on the bill."""
        input_tokens, output_tokens = self.bill(request, said)
        with self._lock:
            self.billed_tokens.update(input=input_tokens, output=output_tokens)
            pixel = request.images[0].getpixel((0, 0)) if request.images else None
            self.answered[f"{pixel} {request.texts[-1]}"] += 1
        return input_tokens, output_tokens

    def in_batch(self, understood: tuple[str, str, list[str], list[bytes]], body: Any) -> tuple[Received, Say | Status]:
        """What a line of a batch is answered."""
        model, key, texts, files = understood
        images = tuple(Image.open(io.BytesIO(file)).convert("RGB") for file in files)
        with self._lock:
            request = Received(len(self.received), model, key, tuple(texts), images, body, {})
            self.received.append(request)
        reaction = self.behaviour(request)
        assert isinstance(reaction, Say | Status), "a batch breaks no connection"
        return request, reaction

    def _reply(self, http, status: int, body: Any, headers: Mapping[str, str] | None = None, cut: bool = False) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._send(http, status, content, "application/json", headers or {}, cut)

    def _send(self, http, status: int, content: bytes, kind: str, headers: Mapping[str, str], cut=False) -> None:
        http.send_response(status)
        for name, value in {"Content-Type": kind, **self.headers, **headers}.items():
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            http.close_connection = True


def exhausted(value: Any) -> Any:
    """Walk through a validated value: pydantic checks the items of an `Iterable` only as they are taken."""
    if isinstance(value, Mapping):
        return {key: exhausted(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [exhausted(item) for item in value]
    return value


def in_turn(*reactions: Reaction) -> Behaviour:
    """React to the first request with the first, and so on; the last one stays."""
    return lambda request: reactions[min(request.number, len(reactions) - 1)]
