"""Hostile inputs made of good ones, and running a reader on them for a while."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 25
"""At least so many inputs are tried; with SIGHTFLOW_FUZZ_SECONDS, as many as there is time for."""
LONGEST_SECONDS = 60
"""A reader that is at work on one small input for so long does not end."""
_ODD = [
    b"\x00",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"'",
    b'"',
    b"\\",
    b"<",
    b"&",
    b"[" * 300,
    b"9" * 400,
]


@st.composite
def mutated(draw: Any, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after some edits: bytes changed, taken away, repeated, put in, or cut off; or as it is."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        size = draw(st.integers(1, 16))
        match draw(st.integers(0, 6)):
            case 0 if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                content[at : at + size] = draw(st.binary(max_size=16))
            case 2:
                del content[at : at + size]
            case 3:
                content[at:at] = content[at : at + size] * draw(st.integers(1, 40))
            case 4:
                content[at:at] = draw(st.sampled_from(_ODD))
            case 5:
                other = draw(st.sampled_from(seeds))
                content[at:] = other[draw(st.integers(0, len(other))) :]
            case _:
                del content[at:]
    return bytes(content)


def mutated_text(seeds: Sequence[str]) -> st.SearchStrategy[str]:
    """As `mutated`, of texts: what is no UTF-8 any more becomes lone surrogates."""
    return mutated([seed.encode() for seed in seeds]).map(lambda content: content.decode("utf-8", "surrogateescape"))


def share_of_seconds(tests: int) -> float:
    """How long each of so many tests may look for trouble; 0: one short round."""
    return float(os.environ.get("SIGHTFLOW_FUZZ_SECONDS", "0")) / max(tests, 1)


def fuzz(read: Callable[[Any], object], inputs: st.SearchStrategy[Any], seconds: float) -> None:
    """Have inputs read, a round of new ones after the other, for so many seconds; one round at least.

    What `read` raises is a defect, shown with the smallest input that does so. So is one that does not end.
    """

    def within_bounds(content: Any) -> None:
        before = signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(LONGEST_SECONDS)
        try:
            read(content)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    until = time.monotonic() + seconds
    while True:
        rounds = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=not seconds,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        rounds(given(content=inputs)(within_bounds))()
        if time.monotonic() >= until:
            return


def _too_long(number: int, frame: Any) -> None:
    raise AssertionError(f"not read within {LONGEST_SECONDS} s")
