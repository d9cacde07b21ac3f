"""Videos asked of the hosted systems: frames with their numbers and times, whole files, and places by frame."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from google.genai import types

from sightflow.blocks.models.engines.providers import gemini_files as gemini_videos
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, FrameSampling, RegionsResult, TextResult, TracksResult
from sightflow.schemas.failure import Cause
from sightflow.schemas.geometry import Box
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.vision import VisionRequest
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.hosted_systems import (
    GEMINI,
    GENERATIONS,
    GPT,
    QWEN,
    SYSTEMS,
    image_with_box,
    named,
    seen_box,
)
from tests.loopback.server import Say, Status, in_turn

DESCRIBE = Enrichment(capability=Capability.VIDEO_CAPTIONING)
ASK = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="Does it move?", choices=("it moves", "it rests")
)
REASON = Enrichment(capability=Capability.VISUAL_REASONING, question="Why?")
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("box",))
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("box",))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("box",))
ALL = (DESCRIBE, ASK, REASON, DETECT, TRACK, SEGMENT)

SIZE = (640, 360)
FOLDER = tempfile.TemporaryDirectory()
BOXES = [(20 + 60 * k, 100, 120 + 60 * k, 220) for k in range(6)]
FILE = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + b"\x00" * 5000


def video(source: bytes | None = None, frames: int = 6) -> DecodedVideo:
    images = tuple(image_with_box(SIZE, box) for box in BOXES[:frames])
    indices = tuple(range(3, 3 + 25 * frames, 25))
    sha256 = hashlib.sha256(source or b"").hexdigest()
    path = Path(FOLDER.name) / sha256 if source else None
    if path and source:
        path.write_bytes(source)
    return DecodedVideo(images, indices, tuple(i / 25 for i in indices), 1280, 720, 10.0, 25.0, sha256, path)


def ask(enrichment: Enrichment, media: DecodedVideo) -> VisionRequest:
    return VisionRequest("s3://b/film.mp4", enrichment, media)


def perfect(system):
    """A model that sees the box move: it answers by frame where frames are numbered, in any order."""

    def behave(received) -> Say:
        asked = received.texts[-1]
        if "exactly one of these" in asked:
            return Say(system.choice("it moves"))
        if "JSON array" not in asked:
            return Say(f"A box moves through {len(received.images)} frames.")
        entries = []
        for number, image in reversed(list(enumerate(received.images, start=1))):
            write = system.outline if "outline" in asked or "segmentation mask" in asked else system.native
            entry = {"frame": number, "label": "box", **write(seen_box(image), image.size)}
            entries.append(entry | ({"track": 7} if '"track"' in asked else {}))
        return Say(system.regions(entries))

    return behave


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_serves_every_video_capability_that_is_not_rated_0(system) -> None:
    model = system.model(id=system.id)
    served = {e.capability for e in ALL if model.unsupported_reason(e, MediaKind.VIDEO) is None}
    assert served == {c for c in model.rating.can if MediaKind.VIDEO in c.media_kinds}


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_answers_every_capability_of_a_video(system) -> None:
    clip = video()
    with system.on_loopback(perfect(system)) as provider:
        replies = system.connect(provider).run([ask(enrichment, clip) for enrichment in ALL])
    assert provider.complaints == []
    assert [reply.failure for reply in replies] == [None] * len(ALL)
    described, moves, reasoned, detected, tracked, segmented = (reply.outcome for reply in replies)
    assert described.text == reasoned.text == "A box moves through 6 frames."
    assert moves == TextResult("it moves")
    assert isinstance(detected, RegionsResult) and isinstance(segmented, RegionsResult)
    for result in (detected, segmented):
        assert sorted(region.frame_index for region in result.regions) == list(clip.indices)
        for region in result.regions:
            place = clip.indices.index(region.frame_index)
            assert region.seconds == clip.seconds[place]
            assert region.box.iou(Box(*(2 * edge for edge in BOXES[place]))) > 0.96  # of 1280 x 720
    assert all(region.mask for region in segmented.regions)
    assert isinstance(tracked, TracksResult)
    (track,) = tracked.tracks
    assert (track.track_id, track.label) == (1, "box")
    assert [point.frame_index for point in track.points] == list(clip.indices)
    assert track.points[0].box.iou(Box(*(2 * edge for edge in BOXES[0]))) > 0.96


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_frames_are_sent_in_order_with_their_times_and_downsized(system) -> None:
    with system.on_loopback(perfect(system)) as provider:
        system.connect(provider, frame_side=320).run([ask(DETECT, video())])
        (received,) = provider.received
    assert [text.strip() for text in received.texts[:-1]] == [f"Frame {k + 1}, at {0.12 + k:.2f} s:" for k in range(6)]
    assert all(max(image.size) <= 320 for image in received.images)
    lefts = [seen_box(image)[0] for image in received.images]
    assert lefts == sorted(lefts)


def test_qwen_is_sent_a_list_of_frames_with_its_rate() -> None:
    with QWEN.on_loopback(perfect(QWEN)) as provider:
        QWEN.connect(provider).run([ask(DESCRIBE, video())])
        (received,) = provider.received
    content = received.body["input"]["messages"][0]["content"]
    assert len(content[0]["video"]) == 6 and content[0]["fps"] == 1.0


def test_qwen_is_sent_too_few_frames_for_a_list_one_by_one() -> None:
    with QWEN.on_loopback(perfect(QWEN)) as provider:
        (reply,) = QWEN.connect(provider).run([ask(DESCRIBE, video(frames=2))])
    assert reply.outcome.text == "A box moves through 2 frames."
    assert provider.complaints == []


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
@pytest.mark.parametrize(
    "spoilt, says",
    [
        ({"frame": 0}, "frame is a whole number from 1 to 6"),
        ({"frame": 7}, "frame is a whole number"),
        ({"frame": "two"}, "frame is a whole number"),
        ({"frame": None}, "frame is a whole number"),
        ({"track": None}, "track is a whole number"),
        ({"frame": 2}, "twice in one frame"),
        ({"label": "ball"}, "not asked for"),
    ],
)
def test_an_entry_that_names_no_frame_or_track_is_malformed(system, spoilt, says) -> None:
    entries = [{"frame": k, "track": 1, "label": "box", **system.native((10, 10, 50, 50), SIZE)} for k in (1, 2, 3)]
    entries[0] |= spoilt
    with system.on_loopback(lambda _: Say(system.regions(entries))) as provider:
        (reply,) = system.connect(provider).run([ask(TRACK, video())])
    assert reply.failure.cause is Cause.MALFORMED
    assert says in reply.failure.message
    assert len(provider.received) == 2  # it was asked to repair its reply once


# --- whole files, Gemini -----------------------------------------------------------------------


def metadata_of(received) -> tuple[types.Part, types.VideoMetadata]:
    part = types.Content.model_validate(received.body["contents"][0]).parts[0]
    return part, part.video_metadata


def test_gemini_is_sent_a_small_file_inline_with_rate_and_offsets() -> None:
    with GEMINI.on_loopback(perfect(GEMINI)) as provider:
        (reply,) = GEMINI.connect(provider).run([ask(DESCRIBE, video(FILE))])
        (received,) = provider.received
    assert reply.failure is None and provider.complaints == [] and provider.uploads == 0
    part, metadata = metadata_of(received)
    assert (part.inline_data.data, part.inline_data.mime_type) == (FILE, "video/mp4")
    assert metadata.fps == 1.0
    assert metadata.start_offset is None and metadata.end_offset == "6.120s"
    assert received.images == ()


def test_gemini_is_sent_frames_for_places_and_for_what_is_no_known_file() -> None:
    with GEMINI.on_loopback(perfect(GEMINI)) as provider:
        GEMINI.connect(provider).run([ask(DETECT, video(FILE)), ask(DESCRIBE, video(b"what is this?"))])
        assert [len(received.images) for received in provider.received] == [6, 6]


def test_a_large_file_is_uploaded_once_for_all_questions_and_deleted(monkeypatch) -> None:
    monkeypatch.setattr(gemini_videos, "INLINE_BYTES", 1000)
    clip = video(FILE)
    with GEMINI.on_loopback(perfect(GEMINI)) as provider:
        model = GEMINI.connect(provider)
        replies = model.run([ask(DESCRIBE, clip), ask(ASK, clip), ask(REASON, clip)])
    assert [reply.failure for reply in replies] == [None] * 3
    assert provider.complaints == []
    assert provider.uploads == 1
    assert provider.deleted == ["video1"] and provider.files == {}
    assert all(metadata_of(received)[0].file_data.mime_type == "video/mp4" for received in provider.received)
    assert model.open_engine().clock.waits == [2.0, 2.0]


def test_what_was_uploaded_is_what_is_there(monkeypatch) -> None:
    monkeypatch.setattr(gemini_videos, "INLINE_BYTES", 1000)
    uploaded = []
    with GEMINI.on_loopback(lambda _: Say(str(uploaded.append(dict(provider.files))))) as provider:
        GEMINI.connect(provider).run([ask(DESCRIBE, video(FILE))])
    assert uploaded == [{"video1": FILE}]


def test_a_file_that_google_cannot_process_is_unsupported(monkeypatch) -> None:
    monkeypatch.setattr(gemini_videos, "INLINE_BYTES", 1000)
    with GEMINI.on_loopback(perfect(GEMINI)) as provider:
        provider.ends = types.FileState.FAILED
        (reply,) = GEMINI.connect(provider).run([ask(DESCRIBE, video(FILE))])
    assert reply.failure.cause is Cause.UNSUPPORTED
    assert provider.received == []


def test_a_lost_file_fails_its_item_and_not_the_run() -> None:
    told = Status(403, message="You do not have permission to access the File x or it may not exist.")
    with GEMINI.on_loopback(in_turn(told, Say("fine"))) as provider:
        lost, found = GEMINI.connect(provider, max_concurrency=1).run([ask(DESCRIBE, video(FILE))] * 2)
    assert lost.failure.cause is Cause.MODEL
    assert found.outcome == TextResult("fine")


# --- prices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_the_price_of_a_video_grows_with_its_frames(system) -> None:
    model = system.model(id=system.id)
    few = Enrichment(capability=Capability.OBJECT_TRACKING, sampling=FrameSampling(frames=4))
    many = Enrichment(capability=Capability.OBJECT_TRACKING, sampling=FrameSampling(fps=2))
    assert 0 < model.price_per_item(few, MediaKind.VIDEO) < model.price_per_item(many, MediaKind.VIDEO) < 0.5


def test_the_strict_schema_of_a_video_names_frames_and_tracks() -> None:
    with GPT.on_loopback(perfect(GPT)) as provider:
        GPT.connect(provider).run([ask(TRACK, video())])
        (received,) = provider.received
    schema = received.body["response_format"]["json_schema"]["schema"]
    region = schema["properties"]["regions"]["items"]["properties"]
    assert set(region) == {"frame", "track", "label", "box"}


# --- whole, at a server of open weights ---------------------------------------------------------


def test_a_video_is_sent_to_vllm_as_one_with_all_its_frames_as_they_are_and_their_times() -> None:
    film = video(frames=4)
    with EndpointOnLoopback(lambda received: Say("a box moves")) as server:
        model = Qwen2VL(engine="endpoint", endpoint_url=server.url, endpoint_videos="video_url")
        (reply,) = model.run([ask(DESCRIBE, film)])
    assert reply.outcome == TextResult("a box moves") and server.complaints == []
    (received,) = server.received
    (prompt,) = model.prompts(DESCRIBE, MediaKind.VIDEO)
    assert received.texts == (prompt.text,)  # as a model that takes videos was trained, without titles
    assert [image.tobytes() for image in received.images] == [frame.tobytes() for frame in film.frames]
    told = received.body["media_io_kwargs"]["video"]
    assert told["frames_indices"] == [round(second * 1000) for second in film.seconds]
    assert (told["fps"], told["total_num_frames"], told["do_sample_frames"]) == (1000.0, 4000, False)


def test_a_server_that_takes_no_times_is_sent_no_video_without_them() -> None:
    with EndpointOnLoopback(lambda received: Say("a film"), knows_more=False) as server:
        model = Qwen2VL(engine="endpoint", endpoint_url=server.url, endpoint_videos="video_url")
        (reply,) = model.run([ask(DESCRIBE, video())])
    assert reply.failure and "HTTP 400" in reply.failure.message
    assert len(server.complaints) == 1


def test_how_videos_are_sent_is_part_of_the_recipe_where_it_is_not_as_ever() -> None:
    frames, plain, whole = (
        Qwen2VL(engine="endpoint", endpoint_url="http://localhost:1/v1", **settings).recipe(DESCRIBE, MediaKind.VIDEO)
        for settings in ({"endpoint_videos": "frames"}, {}, {"endpoint_videos": "video_url"})
    )
    assert frames == plain != whole
