"""Windows: every sampled frame is asked about, none twice but where tracks need it, and the answers become one."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, Segment, TextResult
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.geometry import Box
from sightflow.schemas.vision import Usage, VisionReply
from sightflow.tasks.media.windows import Window, cut, join

CAPTION = Enrichment(capability=Capability.VIDEO_CAPTIONING)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION)
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING)


def reply(outcome: TextResult | RegionsResult | Failure, cost: float = 0.5, route: tuple[str, ...] = ()) -> VisionReply:
    return VisionReply("s3://b/film.mp4", "it", outcome, "gemini", "g", "raw", Usage(1, 2, cost), route)


@given(st.integers(1, 400), st.integers(1, 64), st.sampled_from([CAPTION, DETECT, TRACK]))
def test_every_frame_is_in_a_window(count: int, most: int, enrichment: Enrichment) -> None:
    frames = [k * 2 for k in range(count)]
    windows = cut(frames, [k / 10 for k in range(count)], count / 10, enrichment, most)
    parts = [w for w in windows if not w.overview]
    assert all(len(w.frames) <= most for w in windows)
    assert sorted({k for w in parts for k in w.frames}) == frames
    assert [w.start for w in parts] == sorted(w.start for w in parts)
    assert (parts[0].start, parts[-1].end) == (0.0, count / 10)
    shared = [len(set(a.frames) & set(b.frames)) for a, b in pairwise(parts)]
    if enrichment is TRACK:
        assert all(n == min(8, most // 2) for n in shared)
    else:
        assert not any(shared)
        assert all(a.end == b.start for a, b in pairwise(parts))


def test_what_fits_is_asked_as_a_whole() -> None:
    assert cut([1, 5], [0.0, 1.0], 2.0, CAPTION, 8) == (Window((1, 5), 0.0, 2.0),)


def test_a_caption_is_that_of_the_overview_with_the_parts_as_segments() -> None:
    windows = cut(list(range(20)), [float(k) for k in range(20)], 20.0, CAPTION, 8)
    assert [w.overview for w in windows] == [True, False, False, False]
    said = ["all of it", "first", "then", "last"]
    joined = join(CAPTION, windows, [reply(TextResult(text)) for text in said])
    assert joined.outcome == TextResult(
        "all of it", (Segment(0.0, 8.0, "first"), Segment(8.0, 16.0, "then"), Segment(16.0, 20.0, "last"))
    )
    assert joined.usage == Usage(4, 8, 2.0)


def test_regions_of_windows_are_put_together() -> None:
    windows = cut(list(range(4)), [0.0, 1.0, 2.0, 3.0], 4.0, DETECT, 2)
    regions = [RegionsResult((Region("a", Box(0, 0, k, k), frame_index=k),)) for k in (1, 3)]
    assert join(DETECT, windows, [reply(r) for r in regions]).outcome == RegionsResult(
        regions[0].regions + regions[1].regions
    )


def test_a_window_that_failed_fails_the_enrichment_and_says_which() -> None:
    windows = cut(list(range(4)), [0.0, 1.0, 2.0, 3.0], 4.0, DETECT, 2)
    joined = join(DETECT, windows, [reply(RegionsResult(())), reply(Failure(Cause.REFUSED, "no", attempts=2))])
    assert isinstance(joined.outcome, Failure)
    assert (joined.outcome.cause, joined.outcome.attempts) == (Cause.REFUSED, 2)
    assert joined.outcome.message == "from 2.0 to 4.0 s: no"
    assert joined.usage.cost_usd == 1.0  # what was spent is told all the same
