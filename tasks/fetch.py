"""fetch: bring a shard's objects into memory, each at the version that was planned."""

from __future__ import annotations

import time
from functools import cache

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from blocks.object_store import ObjectStore
from schemas.capability import MediaKind
from schemas.failure import Cause, Failure, Stage
from schemas.plan import Shard
from schemas.spec import EnrichmentSpec
from tasks.discover import open_store


class Fetched:
    """The bytes of a shard's objects, or why they could not be had, by URI.

    A plain class: Prefect looks into dataclasses and mappings that tasks exchange, and has no business here.
    """

    def __init__(self, contents: dict[str, bytes | Failure], seconds: float) -> None:
        self.contents = contents
        self.seconds = seconds


@cache
def _store(settings_json: str) -> ObjectStore:
    """One store, with one pool of connections, for all the shards of a process."""
    return open_store(EnrichmentSpec.model_fields["store"].annotation.model_validate_json(settings_json))  # type: ignore[union-attr]


@task(
    task_run_name="fetch-{shard.index}",
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    cache_policy=NO_CACHE,
    persist_result=False,
)
def fetch(shard: Shard, spec: EnrichmentSpec) -> Fetched:
    """Read the objects of a shard, many at once; one that cannot be read is a failure among the bytes.

    What is past the limit on bytes is not requested at all. Raises StoreError if the keys are refused.
    """
    began = time.perf_counter()
    limits = spec.policy.limits
    limit = limits.max_video_bytes if shard.media_kind is MediaKind.VIDEO else limits.max_bytes
    contents: dict[str, bytes | Failure] = {}
    for item in shard.items:
        if item.bytes > limit:
            message = f"{item.bytes:,} bytes; the limit is {limit:,}"
            contents[item.uri] = Failure(Cause.TOO_LARGE, message, Stage.FETCH)
    wanted = [(item.uri, item.object_version) for item in shard.items if item.uri not in contents]
    read = _store(spec.store.model_dump_json()).read_many(wanted, limit)
    contents.update((uri, content) for (uri, _), content in zip(wanted, read, strict=True))
    return Fetched(contents, time.perf_counter() - began)
