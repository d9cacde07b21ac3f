"""How large the shards of a run are: small at first, then by how fast they get done."""

from dataclasses import replace

import polars as pl
import pytest
from prefect.utilities.collections import visit_collection

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Delivery
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import RunPlan, Shard, ShardItem
from sightflow.schemas.vision import Replies
from sightflow.tasks.fetch import Fetched
from sightflow.tasks.runtime import shard_sizing
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.runtime.sharding import shards_of
from sightflow.tasks.validate import Validated


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shard_sizing, "time", clock)
    return clock


def work(
    objects: int, kind: MediaKind = MediaKind.IMAGE, bytes_each: int = 1, delivery: Delivery = "direct"
) -> RunPlan:
    rows = [
        ("florence-2", delivery, str(kind), f"s3://b/{k:06d}", "v", bytes_each, ["caption"], []) for k in range(objects)
    ]
    columns = ["system", "delivery", "media_kind", "uri", "object_version", "bytes", "enrichments", "replaced"]
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return RunPlan(frame, pl.DataFrame(), pl.DataFrame(), (), (), objects, 0)


def sizes(todo: RunPlan, policy: Policy, clock: Clock, a_second: float, shard_sizer: ShardSizer) -> list[int]:
    """The sizes of shards of which each is done, at so many objects a second, before the next is cut."""
    found = []
    for shard in shards_of(todo, policy, shard_sizer):
        clock.now += len(shard.items) / a_second
        shard_sizer.record(shard)
        found.append(len(shard.items))
    return found


def test_a_fast_model_is_given_large_shards_and_a_slow_one_small_ones(clock: Clock) -> None:
    fast = sizes(work(7000), Policy(), clock, 1000, ShardSizer())
    assert fast[:-1] == [16, 32, 64, 128, 256, 512, 1024, 2048, 2048]
    assert set(sizes(work(1000), Policy(), clock, 2, ShardSizer())[2:-1]) == {64}
    steady = sizes(work(3000), Policy(), clock, 40, ShardSizer())
    assert all(190 <= size <= 210 for size in steady[6:-1]), "five seconds of work"


def test_the_policy_is_never_exceeded(clock: Clock) -> None:
    assert max(sizes(work(300), Policy(shard_size=10), clock, 1000, ShardSizer())) == 10
    assert max(sizes(work(300, bytes_each=100), Policy(shard_bytes=1000), clock, 1000, ShardSizer())) == 10


def test_what_goes_by_batch_is_cut_by_the_policy_alone(clock: Clock) -> None:
    assert sizes(work(5000, delivery="batch"), Policy(), clock, 10, ShardSizer()) == [2048, 2048, 904]
    assert sizes(work(10, bytes_each=40, delivery="batch"), Policy(shard_bytes=100), clock, 10, ShardSizer()) == [2] * 5


def test_many_places_share_the_speed(clock: Clock) -> None:
    assert all(95 <= size <= 105 for size in sizes(work(3000), Policy(), clock, 40, ShardSizer(2))[6:-1])


def test_films_after_pictures_begin_small_again(clock: Clock) -> None:
    both = work(2000)
    videos = work(200, MediaKind.VIDEO)
    cut = list(sizes(replace(both, frame=pl.concat([both.frame, videos.frame])), Policy(), clock, 1000, ShardSizer()))
    after = cut[cut.index(max(cut)) + 1 :]
    assert 16 in after and after[after.index(16) :][:3] == [16, 32, 64]


def test_nothing_is_known_of_a_model_before_two_of_its_shards_are_done(clock: Clock) -> None:
    shard_sizer = ShardSizer()
    shard = Shard(0, "florence-2", MediaKind.IMAGE, (ShardItem("s3://b/k", "v", 1, ("caption",)),) * 50, ())
    assert shard_sizer.objects("florence-2", MediaKind.IMAGE) == 64
    shard_sizer.record(shard)
    assert shard_sizer.objects("florence-2", MediaKind.IMAGE) == 64
    clock.now = 0.1
    shard_sizer.record(shard)
    assert shard_sizer.objects("florence-2", MediaKind.IMAGE) == 2500
    assert shard_sizer.objects("florence-2", MediaKind.VIDEO) == 64


def test_prefect_does_not_look_into_what_tasks_exchange() -> None:
    """It would visit every field of every item, for each task that is given a shard: a tenth of a light run."""
    shard = Shard(0, "florence-2", MediaKind.IMAGE, (ShardItem("s3://b/k", "v", 1, ("caption",)),) * 50, ())
    validated = Validated(pl.DataFrame({"uri": ["s3://b/k"]}), pl.DataFrame(), [], "florence-2")
    for exchanged in (shard, Fetched({"s3://b/k": b"x"}, []), Replies([], []), validated):
        visited: list[object] = []
        visit_collection(exchanged, visit_fn=visited.append, return_data=False)
        assert visited == [exchanged]
