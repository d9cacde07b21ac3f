"""SAM 2 and SAM 3 follow objects through a video: the tracks that transformers' video classes give, and no others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightflow.blocks.models.systems.segmenter import Segmenter
from sightflow.schemas.enrichment import Enrichment, TracksResult
from sightflow.schemas.geometry import Box
from sightflow.schemas.masks import Bitmap, decode_mask
from sightflow.schemas.media import DecodedVideo
from tests.tiny_models import segmenters
from tests.tiny_models.families import loaded, noisy_video, request
from tests.tiny_models.marked_videos import LABELS, LEFT, RED, RIGHT, TRACK, Place, marked, opened, tracks

FAMILIES = ("sam2_video", "sam3_video")
BOTH = pytest.mark.parametrize("family", FAMILIES)

MASKED = pytest.mark.parametrize("asked", [TRACK, TRACK.model_copy(update={"masks": True})], ids=["boxes", "masks"])

Followed = tuple[str, list[tuple[int, Bitmap, float]]]
"""The label of an object, and the frame, mask and score of each of its places."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: segmenters.build(tmp_path_factory.mktemp(name), name) for name in FAMILIES}


def whole(box: Box) -> Place:
    return round(box.x_min), round(box.y_min), round(box.x_max), round(box.y_max)


def around(mask: Any) -> Place:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def assert_same(ours: TracksResult, theirs: dict[int, Followed], asked: Enrichment, video: DecodedVideo) -> None:
    """The tracks are those of the library, by its numbers, in the order of first frame and left edge."""
    seen = [each for each in theirs.values() if each[1]]
    seen.sort(key=lambda each: (each[1][0][0], around(each[1][0][1])[0], each[0]))
    assert [track.track_id for track in ours.tracks] == list(range(1, len(seen) + 1))
    for track, (label, places) in zip(ours.tracks, seen, strict=True):
        assert track.label == label
        assert [point.frame_index for point in track.points] == [frame for frame, _, _ in places]
        assert [whole(point.box) for point in track.points] == [around(mask) for _, mask, _ in places]
        assert [point.score for point in track.points] == pytest.approx([score for *_, score in places], abs=1e-4)
        for point, (_, mask, _) in zip(track.points, places, strict=True):
            if asked.masks:
                assert (decode_mask(point.mask or "", video.width, video.height) == mask).all()
            else:
                assert point.mask is None


def session_of(model: Segmenter, video: DecodedVideo) -> Any:
    """A session as transformers' documentation opens it: all of the frames at once."""
    return model._processor.init_video_session(video=np.stack([np.asarray(frame) for frame in video.frames]))


@MASKED
def test_sam_2_follows_as_the_library_does(asked: Enrichment, folders: dict[str, Path]) -> None:
    """Also what appears later: it begins with its box there, as in a call of the library from that frame on."""
    video = marked([LEFT[0], *[None] * 5], [None, None, RIGHT[2], *[None] * 3])
    model = opened(folders["sam2_video"], mask_threshold=0.99)
    (reply,) = model.run([request(asked, video)])
    theirs: dict[int, Followed] = {}
    processor, network = model._processor, loaded(model)
    for number, (first, label, box) in enumerate([(0, "red box", LEFT[0]), (2, "person", RIGHT[2])]):
        session = session_of(model, video)
        corners = [[[float(edge) for edge in box]]]
        processor.add_inputs_to_inference_session(session, frame_idx=first, obj_ids=[7], input_boxes=corners)
        network(session, frame_idx=first)
        points = []
        for out in network.propagate_in_video_iterator(session, start_frame_idx=first):
            sizes, least = [[video.height, video.width]], float(np.log(99))
            (masks,) = processor.post_process_masks([out.pred_masks], sizes, mask_threshold=least)
            if masks[0, 0].any():
                score = float(out.object_score_logits.sigmoid())
                points.append((video.indices[out.frame_idx], masks[0, 0].numpy(), score))
        theirs[number] = (label, points)
    (_, early), (_, later) = theirs.values()
    assert len(early) < 6 and len(early) + len(later) > 5, "there is something to compare, and something not seen"
    assert_same(tracks(reply), theirs, asked, video)


@MASKED
@pytest.mark.parametrize("hotstart", [0, 4])
def test_sam_3_follows_as_the_library_does(hotstart: int, asked: Enrichment, folders: dict[str, Path]) -> None:
    model, video = opened(folders["sam3_video"]), noisy_video(7)
    network, processor = loaded(model), model._processor
    network.hotstart_delay, network.hotstart_unmatch_thresh = hotstart, 3
    (reply,) = model.run([request(asked, video)])
    session = session_of(model, video)
    processor.add_text_prompt(session, list(LABELS))
    theirs: dict[int, Followed] = {}
    for out in network.propagate_in_video_iterator(session):
        found = processor.postprocess_outputs(session, out)
        labels = {number: label for label, numbers in found["prompt_to_obj_ids"].items() for number in numbers}
        for number, score, mask in zip(found["object_ids"].tolist(), found["scores"], found["masks"], strict=True):
            if mask.any():
                point = (video.indices[out.frame_idx], mask.numpy(), float(score))
                theirs.setdefault(number, (labels[number], []))[1].append(point)
    assert len(theirs) > 1, "there is something to compare"
    if hotstart:
        assert session.hotstart_removed_obj_ids, "what is taken back is told of nowhere"
    assert_same(tracks(reply), theirs, asked, video)


def test_a_higher_threshold_of_masks_leaves_smaller_ones(folders: dict[str, Path]) -> None:
    areas = []
    for threshold in (0.5, 0.99):
        (reply,) = opened(folders["sam3_video"], mask_threshold=threshold).run([request(TRACK, noisy_video(2))])
        areas.append(sum(point.box.area for track in tracks(reply).tracks for point in track.points))
    assert areas[0] > areas[1] > 0


def test_a_track_ends_where_its_object_does_and_goes_on_where_it_comes_back(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees the red in its own input: the box lies over it in an original twice as large as the frames,
    and where there is none the mask has no pixel, which is no place.
    """
    model = opened(folders["sam2_video"])
    network = loaded(model)
    real = network.forward

    def seeing(inference_session: Any, frame_idx: int) -> Any:
        outputs = real(inference_session=inference_session, frame_idx=frame_idx)
        frame = inference_session.get_frame(frame_idx)
        red = frame[0] - frame[1] - frame[2]
        side = outputs.pred_masks.shape[-1]
        small = torch.nn.functional.interpolate((red - 3.5)[None, None], size=(side, side), mode="area")
        outputs["pred_masks"] = small.expand(outputs.pred_masks.shape)
        return outputs

    monkeypatch.setattr(network, "forward", seeing)
    red: list[Place | None] = [(8, 10, 40, 34), (12, 10, 44, 34), None, (20, 6, 52, 30)]
    video = marked(red, [None] * 4, larger=2)
    for image, place in zip(video.frames, red, strict=True):  # nothing else is red
        image.paste((0, 120, 120), (0, 0, *image.size))
        if place:
            image.paste(RED, place)
    (reply,) = model.run([request(TRACK, video)])
    (track,) = tracks(reply).tracks
    assert track.label == "red box"
    assert [point.frame_index for point in track.points] == [video.indices[k] for k in (0, 1, 3)]
    assert [point.seconds for point in track.points] == [video.seconds[k] for k in (0, 1, 3)]
    for point, place in zip(track.points, [place for place in red if place], strict=True):
        assert point.box.iou(Box(*(2.0 * edge for edge in place))) > 0.7, "16 pixels a side are all that it gives"


def test_a_box_of_what_is_followed_begins_nothing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A box of a part of the object is paired with it; one more at its place shows it again."""
    model = opened(folders["sam2_video"])
    shown: list[tuple[int, Any]] = []
    real = model._processor.add_inputs_to_inference_session

    def watching(session: Any, frame_idx: int, obj_ids: list[int], input_boxes: Any) -> None:
        shown.append((frame_idx, list(obj_ids)))
        real(session, frame_idx=frame_idx, obj_ids=obj_ids, input_boxes=input_boxes)

    monkeypatch.setattr(model._processor, "add_inputs_to_inference_session", watching)
    network = loaded(model)
    forward = network.forward

    def everywhere(inference_session: Any, frame_idx: int) -> Any:
        outputs = forward(inference_session=inference_session, frame_idx=frame_idx)
        outputs["pred_masks"] = torch.full_like(outputs["pred_masks"], -9.0)
        outputs["pred_masks"][..., : outputs["pred_masks"].shape[-1] // 2] = 9.0  # the left half
        return outputs

    monkeypatch.setattr(network, "forward", everywhere)
    covered: Place = (0, 0, 26, 40)
    part: Place = (0, 0, 12, 40)
    video = marked([covered, covered, part, covered], [None, (2, 2, 24, 38), None, (34, 2, 58, 38)])
    model.run([request(TRACK, video)])
    assert shown == [(0, [0]), (3, [1])]


@BOTH
def test_masks_are_of_the_size_of_the_original_and_end_where_their_boxes_do(
    family: str, folders: dict[str, Path]
) -> None:
    """Frames are shrunk before they are looked at; what is drawn in them is enlarged with its edges where they were."""
    model, places = opened(folders[family]), (LEFT[:3], RIGHT[:3])
    by_size = [
        tracks(model.run([request(TRACK.model_copy(update={"masks": True}), marked(*places, larger=k))])[0])
        for k in (1, 3)
    ]
    width, height = marked(*places).width, marked(*places).height
    assert by_size[0].tracks and len(by_size[0].tracks) == len(by_size[1].tracks)
    for small, large in zip(by_size[0].tracks, by_size[1].tracks, strict=True):
        for seen, drawn in zip(small.points, large.points, strict=True):
            mask = decode_mask(seen.mask or "", width, height)
            larger = decode_mask(drawn.mask or "", 3 * width, 3 * height)
            assert around(larger) == whole(drawn.box)
            assert (larger[1::3, 1::3] == mask).all(), "in the middle of each pixel nothing has changed"


@BOTH
def test_a_video_in_which_nothing_is_found_has_no_tracks(family: str, folders: dict[str, Path]) -> None:
    model = opened(folders[family], threshold=1.0)
    (reply,) = model.run([request(TRACK, noisy_video(3))])
    assert tracks(reply).tracks == ()


@BOTH
def test_a_batch_of_videos_gives_what_single_calls_give(family: str, folders: dict[str, Path]) -> None:
    model = opened(folders[family], batch_size=8)
    videos = [marked(LEFT[:3], [None, *RIGHT[1:3]], seed=seed) for seed in (1, 2)]
    asked = [request(TRACK, video, f"s3://b/{k}") for k, video in enumerate([*videos, noisy_video(2, seed=3)])]
    together = model.run(asked)
    assert sum(bool(tracks(reply).tracks) for reply in together) > 1
    for each, reply in zip(asked, together, strict=True):
        (alone,) = model.run([each])
        assert (reply.uri, reply.outcome) == (alone.uri, alone.outcome)
