"""Videos that are asked about frame by frame: gathered into one answer, with a few frames allowed to fail, told."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from sightflow.blocks.models import vision_model
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.blocks.models.video.frame_by_frame import frame_requests, merge_frame_replies
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, Segment, TextResult, TracksResult
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.geometry import Box
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.vision import Usage, VisionReply, VisionRequest

DESCRIBE = Enrichment(capability=Capability.VIDEO_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="what?")
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION)
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING)


def video(frames: int, first: float = 0.0, duration: float = 100.0) -> DecodedVideo:
    """A frame a second of a video of ten frames a second."""
    seconds = tuple(first + k for k in range(frames))
    images = (Image.new("RGB", (32, 24)),) * frames
    return DecodedVideo(images, tuple(int(10 * s) for s in seconds), seconds, 640, 480, duration, 10.0, "0" * 64)


def gathered(
    enrichment: Enrichment, video: DecodedVideo, outcomes: Sequence[TextResult | RegionsResult | Failure]
) -> VisionReply:
    request = VisionRequest("s3://bucket/film.mp4", enrichment, video)
    asked = frame_requests(request, video)
    assert len(asked) == len(outcomes)
    replies = [
        VisionReply(r.uri, r.enrichment.name, outcome, "florence-2", "f", f"raw {k}", Usage(2, 1))
        for k, (r, outcome) in enumerate(zip(asked, outcomes, strict=True))
    ]
    return merge_frame_replies(request, video, replies)


def boxes(k: int) -> RegionsResult:
    return RegionsResult((Region("car", Box(10.0 + 5 * k, 10, 110.0 + 5 * k, 60)),))


def test_each_frame_is_asked_as_a_picture_of_the_size_of_the_original() -> None:
    asked = frame_requests(VisionRequest("s3://bucket/film.mp4", TRACK, video(3)), video(3))
    assert {r.enrichment.capability for r in asked} == {Capability.OBJECT_DETECTION}
    assert {(r.media.kind, r.media.width, r.media.height) for r in asked} == {(MediaKind.IMAGE, 640, 480)}


def test_tracks_with_masks_are_linked_from_segmented_frames_and_what_is_interpolated_has_none() -> None:
    masked = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("car",), masks=True)
    asked = frame_requests(VisionRequest("s3://bucket/film.mp4", masked, video(3)), video(3))
    assert {(r.enrichment.capability, r.enrichment.masks) for r in asked} == {(Capability.SEGMENTATION, False)}
    with_masks = [
        RegionsResult(tuple(replace(region, mask=f"mask {k}") for region in boxes(k).regions)) for k in range(5)
    ]
    with_masks[2] = RegionsResult(())
    for enrichment, wanted in ((masked, ["mask 0", "mask 1", None, "mask 3", "mask 4"]), (TRACK, [None] * 5)):
        outcome = gathered(enrichment, video(5), with_masks).outcome
        assert isinstance(outcome, TracksResult)
        (track,) = outcome.tracks
        assert [point.mask for point in track.points] == wanted
        assert [point.gap for point in track.points] == [False, False, True, False, False]


def test_equal_captions_become_one_segment_from_when_they_are_first_seen() -> None:
    said = [TextResult(text) for text in ("a car", "a car", "a dog", "a car")]
    outcome = gathered(DESCRIBE, video(4, first=30.0), said).outcome
    spans = (Segment(30.0, 32.0, "a car"), Segment(32.0, 33.0, "a dog"), Segment(33.0, 34.0, "a car"))
    assert outcome == TextResult("a car; then a dog; then a car", spans)


def test_a_segment_does_not_pass_the_end_of_the_video() -> None:
    outcome = gathered(DESCRIBE, video(3, first=0.5, duration=3.0), [TextResult("a car")] * 3).outcome
    assert outcome == TextResult("a car", (Segment(0.5, 3.0, "a car"),))


def test_of_answers_the_most_frequent_is_taken() -> None:
    outcome = gathered(ASK, video(3), [TextResult("red"), TextResult("blue"), TextResult("blue")]).outcome
    assert isinstance(outcome, TextResult) and outcome.text == "blue"


def test_regions_know_their_frame_and_what_was_used_is_added_up() -> None:
    reply = gathered(DETECT, video(3), [boxes(k) for k in range(3)])
    assert isinstance(reply.outcome, RegionsResult)
    assert [(r.frame_index, r.seconds) for r in reply.outcome.regions] == [(0, 0.0), (10, 1.0), (20, 2.0)]
    assert reply.usage == Usage(6, 3) and reply.raw_reply == "raw 0\nraw 1\nraw 2"


@pytest.mark.parametrize(("lost", "survives"), [(1, True), (2, False)])
def test_one_frame_in_twenty_may_fail_and_is_told(lost: int, survives: bool) -> None:
    failure = Failure(Cause.MALFORMED, "no boxes")
    reply = gathered(TRACK, video(20), [failure if 5 <= k < 5 + lost else boxes(k) for k in range(20)])
    assert "[5.00 s: malformed: no boxes] raw 5" in (reply.raw_reply or "")
    if survives:
        assert isinstance(reply.outcome, TracksResult)
        (track,) = reply.outcome.tracks
        assert [point.seconds for point in track.points if point.gap] == [5.0]
    else:
        assert reply.failure == replace(
            failure, message="at 5.00 s: no boxes (and 1 more of 20 frames)", raw_reply=reply.raw_reply
        )


def test_another_way_of_linking_makes_stale_the_tracks_that_are_linked_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, hosted = Florence2(id=str(MODEL_FOLDER)), GPT4o()
    asked: list[tuple[VisionModel, Enrichment, MediaKind]]
    asked = [(here, each, MediaKind.VIDEO) for each in (TRACK, DETECT, DESCRIBE)]
    asked += [(here, DETECT, MediaKind.IMAGE), (hosted, TRACK, MediaKind.VIDEO)]
    before = [model.recipe(enrichment, kind) for model, enrichment, kind in asked]
    monkeypatch.setattr(vision_model, "ASSOCIATION_VERSION", 99)
    after = [model.recipe(enrichment, kind) for model, enrichment, kind in asked]
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, False, False, False, False]
