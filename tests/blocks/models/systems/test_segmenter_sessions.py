"""What following objects through a video leaves behind, costs and makes stale."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from sightflow.blocks.models.systems import segmenter
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TracksResult
from sightflow.schemas.failure import Cause
from tests.tiny_models import segmenters
from tests.tiny_models.families import loaded, noise, noisy_video, request
from tests.tiny_models.marked_videos import LABELS, LEFT, RIGHT, TRACK, Marks, marked, opened, tracks

BOTH = pytest.mark.parametrize("family", ["sam2_video", "sam3_video"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: segmenters.build(tmp_path_factory.mktemp(name), name) for name in segmenters.BUILD}


@BOTH
def test_an_error_in_the_middle_costs_its_video_alone_and_leaves_nothing(
    family: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(folders[family])
    sessions: list[Any] = []
    open_session = model._processor.init_video_session

    def opening(**settings: Any) -> Any:
        sessions.append(open_session(**settings))
        return sessions[-1]

    monkeypatch.setattr(model._processor, "init_video_session", opening)
    network = loaded(model)
    real = network.forward

    def breaking(inference_session: Any, frame_idx: int, **more: Any) -> Any:
        if len(inference_session.processed_frames) == 4 and frame_idx == 2:
            raise RuntimeError("it breaks in the middle")
        return real(inference_session=inference_session, frame_idx=frame_idx, **more)

    monkeypatch.setattr(network, "forward", breaking)
    good, bad = marked(LEFT[:3], RIGHT[:3]), marked(LEFT[:4], RIGHT[:4])
    broken, whole_one = model.run([request(TRACK, bad), request(TRACK, good)])
    assert broken.failure and broken.failure.cause is Cause.MODEL and "in the middle" in broken.failure.message
    assert tracks(whole_one).tracks
    assert len(sessions) > 1
    for session in sessions:
        assert session.processed_frames is None and not session.output_dict_per_obj
        assert not session.cache._vision_features
    left = [weakref.ref(session) for session in sessions]
    sessions.clear()
    del session
    gc.collect()
    assert not any(reference() for reference in left)


@BOTH
def test_a_session_keeps_what_the_model_looks_back_at_and_no_more(
    family: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(folders[family])
    network = loaded(model)
    config = network.config if family == "sam2_video" else network.config.tracker_config
    kept = max(config.num_maskmem, config.max_object_pointers_in_encoder)
    assert kept == 4
    real, most, held = network.forward, 0, set()

    def counting(inference_session: Any, frame_idx: int, **more: Any) -> Any:
        nonlocal most
        for outputs in inference_session.output_dict_per_obj.values():
            most = max(most, len(outputs["non_cond_frame_outputs"]))
            for of_frame in (*outputs["non_cond_frame_outputs"].values(), *outputs["cond_frame_outputs"].values()):
                held.update(of_frame)
        assert not isinstance(inference_session.processed_frames, dict), "frames are made ready one by one"
        return real(inference_session=inference_session, frame_idx=frame_idx, **more)

    monkeypatch.setattr(network, "forward", counting)
    (reply,) = model.run([request(TRACK, marked([LEFT[0]] * 8, [None] * 8))])
    assert not reply.failure
    assert most == kept and held and "high_res_masks" not in held


@BOTH
def test_what_is_no_number_is_a_failure(family: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(folders[family])
    network = loaded(model)
    last = network.mask_decoder.pred_obj_score_head if family == "sam2_video" else network.detector_model.detr_decoder
    with torch.no_grad():
        for weight in last.parameters():
            weight.fill_(float("nan"))
    (reply,) = model.run([request(TRACK, marked(LEFT[:2], RIGHT[:2]))])
    assert reply.failure and reply.failure.cause is Cause.MODEL and "no number" in reply.failure.message


def test_what_the_other_model_fails_at_fails(folders: dict[str, Path]) -> None:
    model = opened(folders["sam2_video"])
    model.take_boxes_from(Marks(fails=True))
    (reply,) = model.run([request(TRACK, marked(LEFT[:2], RIGHT[:2]))])
    assert reply.failure and reply.failure.cause is Cause.MODEL
    assert "boxes_from: at 0.00 s: " in reply.failure.message and "it is broken" in reply.failure.message


def test_a_label_that_is_too_long_for_sam_3_is_told_of(folders: dict[str, Path]) -> None:
    long = TRACK.model_copy(update={"labels": ("dog " * 40,)})
    (reply,) = opened(folders["sam3_video"]).run([request(long, noisy_video(2))])
    assert reply.failure and reply.failure.cause is Cause.TOO_LARGE


@pytest.mark.parametrize("family", ["sam2", "sam2_video", "sam3", "sam3_video"])
def test_another_way_of_following_makes_stale_what_was_followed_and_nothing_else(
    family: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(folders[family])
    cut = Enrichment(capability=Capability.SEGMENTATION, labels=LABELS)
    asked = [(TRACK, MediaKind.VIDEO), (cut, MediaKind.VIDEO), (cut, MediaKind.IMAGE)]
    before = [model.recipe(*each) for each in asked]
    monkeypatch.setattr(segmenter, "_TRACKING_VERSION", 99)
    after = [model.recipe(*each) for each in asked]
    stale = [old != new for old, new in zip(before, after, strict=True)]
    assert stale == [family.endswith("_video"), False, False]
    assert model.runs_per_frame(TRACK, MediaKind.VIDEO) is not family.endswith("_video")


@BOTH
def test_masks_of_a_video_and_of_an_image_are_asked_for_as_before(family: str, folders: dict[str, Path]) -> None:
    model = opened(folders[family])
    cut = Enrichment(capability=Capability.SEGMENTATION, labels=LABELS)
    video = marked(LEFT[:2], RIGHT[:2])
    replies = model.run([request(cut, video), request(TRACK, video), request(cut, noise(90, 60))])
    regions, followed, image = (reply.outcome for reply in replies)
    assert isinstance(regions, RegionsResult) and all(each.mask for each in regions.regions)
    assert {each.frame_index for each in regions.regions} <= set(video.indices)
    assert isinstance(followed, TracksResult) and isinstance(image, RegionsResult)


def test_no_code_of_a_hub_is_fetched_for_sam_3(folders: dict[str, Path]) -> None:
    from transformers.models.sam3_video import modeling_sam3_video

    modeling_sam3_video.cv_utils_kernel = None
    opened(folders["sam3_video"])
    assert modeling_sam3_video.cv_utils_kernel is False, "else it is looked for when first it is needed"
