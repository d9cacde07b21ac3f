"""Video-LLaVA (arXiv:2311.10122): pictures and films in one space; eight frames a film, looked at together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sightflow.blocks.models.contract import GenerationRequest, Prompt
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.replies.json_regions import read_regions
from sightflow.blocks.models.replies.llava_boxes import (
    BOX_FORM,
    COORDINATE,
    FRACTIONS,
    POLYGON_FORM,
    phrase_prompts,
    read_fraction_boxes,
)
from sightflow.blocks.models.replies.regions_schema import region_form
from sightflow.blocks.models.systems.llava_next import LLAVA_GROUNDING, set_patch_size
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, FrameSampling, Result
from sightflow.schemas.geometry import ImageTransform
from sightflow.schemas.media import DecodedImage, DecodedVideo
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, VisionRequest

_FRAMES = 8


class VideoLlava(OpenWeightsModel):
    """Video-LLaVA: captions and answers on films and pictures.

    What is said of a film is said of eight frames, evenly spread over it or over the stretch that was asked for. Its
    processor cuts a picture to the square in its middle: what lies outside is not seen, and boxes, as fractions,
    are those of the square. It was not made for regions: they are asked for in words and read strictly.
    """

    _block_type_name = "Sightflow Video-LLaVA"
    _block_type_slug = "sightflow-video-llava"

    rating = Rating(
        system="video-llava",
        capabilities=stars(
            captioning=4, answering=4, reasoning=3, grounding=2, detection=3, tracking=4, video_captioning=5
        ),
        deployment="hard",
        getting_started="slow",
        weights="open",
        used_by="own deployment (own repository)",
        community="fair",
        strength="native video, temporal",
    )
    media_kinds = frozenset({MediaKind.IMAGE, MediaKind.VIDEO})
    box_format = FRACTIONS
    supports_video: ClassVar[bool] = True
    model_class = "VideoLlavaForConditionalGeneration"
    memory_gib = 18.0
    default = ModelRef("LanguageBind/Video-LLaVA-7B-hf", revision="main", licence="apache-2.0")

    def on_loaded(self, processor: Any, config: Any) -> None:
        super().on_loaded(processor, config)
        if config is not None:
            set_patch_size(processor, config)

    def sampling(self, enrichment: Enrichment) -> FrameSampling:
        """For text eight frames, of the stretch asked for; regions and tracks are asked of each frame alone."""
        if not enrichment.capability.gives_text:
            return super().sampling(enrichment)
        wanted = enrichment.sampling or FrameSampling()
        return FrameSampling(frames=_FRAMES, start=wanted.start, end=wanted.end)

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if enrichment.capability is Capability.VISUAL_GROUNDING:
            return phrase_prompts(enrichment, self.max_new_tokens, LLAVA_GROUNDING)
        regions = region_form(enrichment, "box", COORDINATE) if enrichment.capability.gives_places else None
        return instruction_prompts(enrichment, media_kind, self.max_new_tokens, BOX_FORM, POLYGON_FORM, regions)

    def media_inputs(self, batch: Sequence[GenerationRequest]) -> dict[str, Any]:
        import numpy as np

        media = [each.request.media for each in batch]
        images = [m.pixels for m in media if isinstance(m, DecodedImage)]
        videos = [np.stack(eight_frames(m)) for m in media if isinstance(m, DecodedVideo)]
        inputs: dict[str, Any] = {"images": images} if images else {}
        return inputs | ({"videos": videos, "videos_kwargs": {"input_data_format": "channels_last"}} if videos else {})

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        """The square in the middle of the picture: the rest lies beyond the edges of what was seen."""
        width, height = request.media.width, request.media.height
        side = min(width, height)
        return ImageTransform(width, height, side, side, (side - width) / 2, (side - height) / 2, width, height)

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        enrichment = request.enrichment
        if not enrichment.capability.gives_places:
            return read_answer(text, enrichment, prompt)
        if enrichment.capability is Capability.VISUAL_GROUNDING:
            return read_fraction_boxes(prompt, text, self.image_transform(request))
        return read_regions(text, enrichment, FRACTIONS, self.image_transform(request))


def eight_frames(video: DecodedVideo) -> list[Any]:
    """Exactly eight frames, as arrays (height, width, 3): of more those evenly spread, of fewer some twice."""
    import numpy as np

    last = len(video.frames) - 1
    return [np.asarray(video.frames[round(last * k / (_FRAMES - 1))]) for k in range(_FRAMES)]
