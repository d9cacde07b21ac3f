"""Answers of providers, bounded while they are read: in bytes as they unpack, and in seconds as a whole.

The SDKs bound the silence between two bytes and nothing else: a byte a second would hold a request for ever, and a
megabyte of gzip be gigabytes of JSON.
"""

from __future__ import annotations

import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from typing import Any, TypeVar

Result = TypeVar("Result")

MOST_BYTES = 16 * 2**20
"""Of one answer, unpacked: several times what the longest reply of any model takes."""
TIMEOUTS = 2
"""In which a whole answer has to be there; a time-out is of the silence between two of its bytes."""
TRUST = "set SSL_CERT_FILE to the file with the certificate of the authority that signed it: a company's proxy has one"
"""What to do about a certificate that is not trusted."""
_UNPACKED_AT_ONCE = 1 << 16


class AnswerTooLarge(Exception):
    """An answer of more bytes than any reply has; asked again it would be no smaller."""


class AnswerTooSlow(Exception):
    """An answer that was not whole in time."""


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """What a call returns or raises. Raises AnswerTooSlow if it takes longer: it is then left to end by itself."""
    outcome: list[tuple[Result | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # all of them: raised where the call is waited for
            outcome.append((None, error))

    thread = threading.Thread(target=copy_context().run, args=(run,), name="request", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise AnswerTooSlow(f"no whole answer after {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def bounded(chunks: Iterable[bytes], encoding: str, deadline: float, most_bytes: int = MOST_BYTES) -> Iterator[bytes]:
    """The bytes of an answer, unpacked. `encoding`: its Content-Encoding; `deadline`: in monotonic seconds.

    Raises AnswerTooLarge, AnswerTooSlow, and ValueError for an encoding that was not asked for.
    """
    unpack = _unpacker(encoding.strip().lower())
    count = 0
    for chunk in chunks:
        if time.monotonic() > deadline:
            raise AnswerTooSlow("the answer was not whole in time")
        for part in unpack(chunk):
            count += len(part)
            if count > most_bytes:
                raise AnswerTooLarge(f"the answer is larger than {most_bytes >> 20} MiB")
            yield part


def _unpacker(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    if encoding in ("", "identity"):
        return lambda chunk: iter((chunk,))
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"the answer is encoded as {encoding}, which was not asked for")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of gzip or zlib, as its header says

    def inflate(chunk: bytes) -> Iterator[bytes]:
        while chunk:
            yield inflater.decompress(chunk, _UNPACKED_AT_ONCE)
            chunk = inflater.unconsumed_tail

    return inflate


def event_hooks(httpx: Any, seconds: float, most_bytes: int = MOST_BYTES) -> Mapping[str, list[Callable[[Any], None]]]:
    """Event hooks of a client of httpx (or of its fork httpx2, whichever is given) that bound every answer."""

    class Bounded(httpx.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, encoding: str) -> None:
            self._stream, self._encoding, self._deadline = stream, encoding, time.monotonic() + seconds

        def __iter__(self) -> Iterator[bytes]:
            return bounded(self._stream, self._encoding, self._deadline, most_bytes)

        def close(self) -> None:
            self._stream.close()

    def ask_for_plain(request: Any) -> None:
        request.headers["Accept-Encoding"] = "identity"

    def bound(response: Any) -> None:
        response.stream = Bounded(response.stream, response.headers.pop("Content-Encoding", ""))

    return {"request": [ask_for_plain], "response": [bound]}


def is_untrusted(error: BaseException | None) -> bool:
    """Whether an error is about a certificate that no authority known here has signed."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def broken_bound(error: BaseException | None) -> AnswerTooLarge | AnswerTooSlow | None:
    """The bound that an error is about; the SDKs wrap what is raised under them."""
    while error is not None and not isinstance(error, AnswerTooLarge | AnswerTooSlow):
        error = error.__cause__ or error.__context__
    return error
