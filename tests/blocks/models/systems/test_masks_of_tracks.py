"""Who gives tracks masks: a system that cuts out what is in a frame, or follows objects by their masks."""

from pathlib import Path

import pytest

from sightflow.blocks.models.registry import SYSTEMS, open_model
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from tests.tiny_models import segmenters

TRACK = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("dog",))
MASKED = TRACK.model_copy(update={"masks": True})


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_serves_tracks_with_masks_or_says_that_it_does_not(system: str) -> None:
    model = open_model(system, {})
    why = model.unsupported_reason(MASKED, MediaKind.VIDEO)
    if system in ("florence-2", "qwen2-vl", "video-llava", "segmenter"):
        assert why is None
        assert model.recipe(MASKED, MediaKind.VIDEO) != model.recipe(TRACK, MediaKind.VIDEO)
    else:
        assert why and (model.unsupported_reason(TRACK, MediaKind.VIDEO) or "gives no masks of tracks" in why)


@pytest.mark.parametrize("given", [{"labels": ()}, {"capability": Capability.OBJECT_DETECTION}])
def test_masks_are_asked_of_tracks_by_labels(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs labels|takes no masks"):
        Enrichment.model_validate(MASKED.model_dump(by_alias=True) | {"name": ""} | given)


def test_what_is_missing_is_said_and_not_that_it_gives_none(tmp_path: Path) -> None:
    sam2 = open_model("segmenter", {"id": str(segmenters.build(tmp_path, "sam2"))})
    assert "boxes_from: NAME" in (sam2.unsupported_reason(MASKED, MediaKind.VIDEO) or "")


@pytest.mark.parametrize("system", ["qwen2-vl", "video-llava"])
def test_a_frame_is_estimated_as_the_segmentation_that_it_is(system: str) -> None:
    model = open_model(system, {"engine": "endpoint", "endpoint_url": "http://127.0.0.1:9/v1"})
    cut = Enrichment(capability=Capability.SEGMENTATION, labels=("dog",))
    tracked, cut_out, boxes = (
        sum(usage.output_tokens for usage in model.request_usages(each, MediaKind.VIDEO, (640, 480), frames=8))
        for each in (MASKED, cut, TRACK)
    )
    assert tracked == cut_out > boxes
