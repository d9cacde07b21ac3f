"""LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next): tiles of any resolution, strong in dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightflow.blocks.models.chat_model import InstructionTunedModel
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.local_model import GenerationRequest
from sightflow.blocks.models.replies.llava_boxes import BOX_FORM, FRACTIONS, phrase_prompts, read_fraction_boxes
from sightflow.blocks.models.vision_model import Prompt, ReplyError, plain_text
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.failure import Cause
from sightflow.schemas.media import DecodedImage, Media
from sightflow.schemas.ratings import rated
from sightflow.schemas.vision import ModelRef, VisionRequest

LLAVA_GROUNDING = "Please provide the bounding box coordinate of the region this sentence describes: {}."
"""The question that the LLaVA line was trained with; its answer is `[x_min, y_min, x_max, y_max]`."""


class LlavaNext(InstructionTunedModel):
    """LLaVA-NeXT (LLaVA 1.6): captions, answers and reasoning on pictures, which it sees whole and in tiles.

    The number of tokens depends on the picture's shape. Grounding is not its strength: one box a phrase, as
    fractions of the picture's sides, by the question it was trained with.
    """

    _block_type_name = "Sightflow LLaVA-NeXT"
    _block_type_slug = "sightflow-llava-next"

    rating = rated("llava-next")
    box_format = FRACTIONS
    supports_vllm = True
    model_class = "LlavaNextForConditionalGeneration"
    memory_gib = 17.0
    default = ModelRef("llava-hf/llava-v1.6-mistral-7b-hf", revision="main", licence="apache-2.0", commercial_use="yes")

    def on_loaded(self) -> None:
        super().on_loaded()
        set_patch_size(self._processor, self._model.config)

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if enrichment.capability is Capability.VISUAL_GROUNDING:
            return phrase_prompts(enrichment, self.max_new_tokens, LLAVA_GROUNDING)
        return instruction_prompts(enrichment, media_kind, self.max_new_tokens, BOX_FORM)

    def media_inputs(self, units: Sequence[GenerationRequest]) -> dict[str, Any]:
        return {"images": [image_of(unit) for unit in units]}

    def length_of(self, media: Media) -> float:
        """In tokens: by the tiles that its shape is cut into, and not by its pixels."""
        said = self._processor._get_num_multimodal_tokens(image_sizes=[(media.height, media.width)])
        return float(said["num_image_tokens"][0])

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        if request.enrichment.capability.gives_text:
            return plain_text(text, prompt.choices)
        return read_fraction_boxes(prompt, text, self.image_transform(request))


def image_of(unit: GenerationRequest) -> Any:
    """The unit's picture. Raises ReplyError with cause `unsupported` if it is about a whole video."""
    if not isinstance(unit.request.media, DecodedImage):
        raise ReplyError("a picture was expected and this is a video", Cause.UNSUPPORTED)
    return unit.request.media.pixels


def set_patch_size(processor: Any, config: Any) -> None:
    """Tell the processor what older checkpoints say in the model's config alone: how many tokens a picture has."""
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
