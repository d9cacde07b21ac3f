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
    """Puts the answers of a shard together: those about the windows of a video become one; then its file may go."""

    def __init__(self, shard: Shard, fetched: Fetched) -> None:
        self._fetched = fetched
        self._keys = [(item.uri, name) for item in shard.items for name in item.enrichments]
        self._by_window: dict[tuple[str, str], dict[int, Answer]] = {}
        self._complete: dict[tuple[str, str], Answer] = {}
        self._unanswered = {item.uri: len(item.enrichments) for item in shard.items}

    def add(self, answered: Iterable[tuple[InferenceItem, Answer]]) -> None:
        """Take the answers to some requests, in any order."""
        for item, answer in answered:
            uri, enrichment = item.shard_item.uri, item.resolved.enrichment
            key = (uri, enrichment.name)
            by_window = self._by_window.setdefault(key, {})
            by_window[item.window_index] = answer
            if len(by_window) < max(len(item.windows), 1):
                continue
            parts = [by_window[index] for index in sorted(self._by_window.pop(key))]
            reply = join(enrichment, item.windows, [part.reply for part in parts])
            facts = next((part.facts for part in parts if part.facts), None)
            self._complete[key] = replace(parts[0], reply=reply, facts=facts)
            self._unanswered[uri] -= 1
            if not self._unanswered[uri]:
                self._fetched.release(uri)

    def answers(self) -> list[Answer]:
        """One for each enrichment of each item that has been answered in full, in the order of the shard."""
        return [self._complete[key] for key in self._keys if key in self._complete]
