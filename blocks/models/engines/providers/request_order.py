"""In which order requests are sent, so that a vendor's cache of what prompts begin with is of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from sightflow.blocks.models.contract import GenerationRequest

Sent = TypeVar("Sent")


def send_in_turn(
    pool: Executor, send: Callable[[GenerationRequest], Sent], requests: Sequence[GenerationRequest], at_once: int
) -> list[Sent]:
    """What `send` makes of each request, in their order; `at_once`: how many the pool has under way.

    Several questions about one object begin with the same media, which the vendor has cached once it has answered the
    first: they are sent one after another. Where there are fewer objects than may be under way, each goes by itself.
    """
    by_media: dict[int, list[int]] = {}
    for place, each in enumerate(requests):
        by_media.setdefault(id(each.request.media), []).append(place)
    turns = list(by_media.values()) if len(by_media) >= at_once else [[place] for place in range(len(requests))]
    sent = pool.map(lambda turn: [(place, send(requests[place])) for place in turn], turns)
    return [made for _, made in sorted((each for turn in sent for each in turn), key=lambda each: each[0])]
