"""Cutting the work of a run into shards."""

from __future__ import annotations

from collections.abc import Iterator

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.run.plan import RunPlan, Shard, ShardItem
from sightflow.schemas.spec import Policy
from sightflow.tasks.runtime.shard_sizing import ShardSizer

_FIRST_SHARD = 16  # objects


def shards_of(work: RunPlan, policy: Policy, pace: ShardSizer) -> Iterator[Shard]:
    """Cut the work into shards of one system and media kind, by number of objects and by bytes.

    The first ones of each are small, so that the model has something to do, and a reader something to see, at once;
    each of the next holds at most twice as many, and no more than the policy and the pace allow.
    """
    items: list[ShardItem] = []
    kept: tuple[str, MediaKind] | None = None
    size = index = doubled = most = 0

    def shard(system: str, kind: MediaKind) -> Shard:
        asked = {name for item in items for name in item.enrichments}
        resolved_enrichments = [
            resolved
            for resolved in work.resolved_enrichments
            if resolved.media_kind is kind and resolved.enrichment.name in asked
        ]
        return Shard(index, system, kind, tuple(items), tuple(resolved_enrichments))

    for row in work.frame.iter_rows(named=True):
        key = (row["system"], MediaKind(row["media_kind"]))
        full = len(items) >= most or size + row["bytes"] > policy.shard_bytes
        if kept and items and (full or key != kept):
            yield shard(*kept)
            items, size, index = [], 0, index + 1
        if not items:
            doubled = doubled + 1 if key == kept else 0
            most = min(policy.shard_size, _FIRST_SHARD << min(doubled, 10), pace.objects(*key))
        kept = key
        size += row["bytes"]
        items.append(ShardItem(row["uri"], row["object_version"], row["bytes"], tuple(row["enrichments"])))
    if kept and items:
        yield shard(*kept)
