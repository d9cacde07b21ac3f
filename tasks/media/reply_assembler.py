"""From the model's replies to one answer for each enrichment of each object of a shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sightflow.schemas.run.plan import Shard
from sightflow.schemas.vision import Answer
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.media.request_batches import InferenceItem
from sightflow.tasks.media.windows import join


class ReplyAssembler:
    """Gathers the answers of a shard: those about the windows of a video become one; then its file may go."""

    def __init__(self, shard: Shard, fetched: Fetched) -> None:
        self._fetched = fetched
        self._parts: dict[tuple[str, str], dict[int, Answer]] = {}
        self._done: dict[tuple[str, str], Answer] = {}
        self._left = {item.uri: len(item.enrichments) for item in shard.items}
        self._order = [(item.uri, name) for item in shard.items for name in item.enrichments]

    def add(self, answered: Iterable[tuple[InferenceItem, Answer]]) -> None:
        for asked, answer in answered:
            key = (asked.item.uri, asked.resolved.enrichment.name)
            parts = self._parts.setdefault(key, {})
            parts[asked.place] = answer
            if len(parts) < max(len(asked.windows), 1):
                continue
            ordered = [parts[place] for place in sorted(self._parts.pop(key))]
            whole = join(asked.resolved.enrichment, asked.windows, [part.reply for part in ordered])
            facts = next((part.facts for part in ordered if part.facts), None)
            self._done[key] = replace(ordered[0], reply=whole, facts=facts)
            self._left[asked.item.uri] -= 1
            if not self._left[asked.item.uri]:
                self._fetched.release(asked.item.uri)

    def answers(self) -> list[Answer]:
        """One for each enrichment of each item, in the order of the shard."""
        return [self._done[key] for key in self._order]
