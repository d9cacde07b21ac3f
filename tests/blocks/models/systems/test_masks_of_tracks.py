"""Who gives tracks masks: a system that cuts out what is in a frame, or follows objects by their masks."""

import pytest

from sightflow.blocks.models.registry import SYSTEMS, open_model
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment

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
