"""Cuts what a run has to compute into shards."""

from __future__ import annotations

from collections.abc import Iterator

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Delivery
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import RunPlan, Shard, ShardItem
from sightflow.tasks.runtime.shard_sizing import ShardSizer

_FIRST_SHARD = 16  # objects


def shards_of(run_plan: RunPlan, policy: Policy, shard_sizer: ShardSizer) -> Iterator[Shard]:
    """Cut a plan into shards of one system, media kind and delivery, by number of objects and by bytes.

    The first ones of each are small, so that the model has something to do, and a reader something to see, at once;
    each of the next holds at most twice as many, and no more than the policy and the sizer allow. What goes by batch is
    waited for by nobody: its shards are as large as the policy allows.
    """
    items: list[ShardItem] = []
    shard_key: tuple[str, MediaKind, Delivery] | None = None
    size = index = doublings = most = 0

    def shard(system: str, kind: MediaKind, delivery: Delivery) -> Shard:
        names = {name for item in items for name in item.enrichments}
        resolved_enrichments = [
            resolved
            for resolved in run_plan.resolved_enrichments
            if resolved.media_kind is kind and resolved.enrichment.name in names
        ]
        return Shard(index, system, kind, tuple(items), tuple(resolved_enrichments), delivery)

    for row in run_plan.frame.iter_rows(named=True):
        key = (row["system"], MediaKind(row["media_kind"]), row["delivery"])
        full = len(items) >= most or size + row["bytes"] > policy.shard_bytes
        if shard_key and items and (full or key != shard_key):
            yield shard(*shard_key)
            items, size, index = [], 0, index + 1
        if not items:
            doublings = doublings + 1 if key == shard_key else 0
            most = min(policy.shard_size, _FIRST_SHARD << min(doublings, 10), shard_sizer.objects(*key[:2]))
            most = policy.shard_size if row["delivery"] == "batch" else most
        shard_key = key
        size += row["bytes"]
        names = tuple(row["enrichments"]), tuple(row["replaced"])
        items.append(ShardItem(row["uri"], row["object_version"], row["bytes"], *names))
    if shard_key and items:
        yield shard(*shard_key)
