"""LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next): tiles of any resolution, strong in dialogue."""

from __future__ import annotations

from typing import Any

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.replies.llava_boxes import BOX_FORM, FRACTIONS, phrase_prompts, read_fraction_boxes
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.media import Media
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, VisionRequest

LLAVA_GROUNDING = "Please provide the bounding box coordinate of the region this sentence describes: {}."
"""The question that the LLaVA line was trained with; its answer is `[x_min, y_min, x_max, y_max]`."""


class LlavaNext(OpenWeightsModel):
    """LLaVA-NeXT (LLaVA 1.6): captions, answers and reasoning on pictures, which it sees whole and in tiles.

    The number of tokens depends on the picture's shape. Grounding is not its strength: one box a phrase, as
    fractions of the picture's sides, by the question it was trained with.
    """

    _block_type_name = "Sightflow LLaVA-NeXT"
    _block_type_slug = "sightflow-llava-next"

    rating = Rating(
        system="llava-next",
        capabilities=stars(
            captioning=5, answering=5, reasoning=4, grounding=2, detection=0, tracking=0, video_captioning=0
        ),
        deployment="medium",
        getting_started="medium",
        weights="open",
        used_by="own deployment (Hugging Face)",
        community="very active",
        strength="community, easy to fine-tune",
    )
    box_format = FRACTIONS
    supports_vllm = True
    model_class = "LlavaNextForConditionalGeneration"
    memory_gib = 17.0
    default = ModelRef("llava-hf/llava-v1.6-mistral-7b-hf", revision="main", licence="apache-2.0", commercial_use="yes")

    def on_loaded(self, processor: Any, config: Any) -> None:
        super().on_loaded(processor, config)
        if config is not None:
            set_patch_size(processor, config)

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if enrichment.capability is Capability.VISUAL_GROUNDING:
            return phrase_prompts(enrichment, self.max_new_tokens, LLAVA_GROUNDING)
        return instruction_prompts(enrichment, media_kind, self.max_new_tokens, BOX_FORM)

    def prompt_length(self, media: Media) -> float:
        """In tokens: by the tiles that its shape is cut into, and not by its pixels."""
        counted = self._processor._get_num_multimodal_tokens(image_sizes=[(media.height, media.width)])
        return float(counted["num_image_tokens"][0])

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        if not request.enrichment.capability.gives_places:
            return read_answer(text, request.enrichment, prompt)
        return read_fraction_boxes(prompt, text, self.image_transform(request))


def set_patch_size(processor: Any, config: Any) -> None:
    """Tell the processor what older checkpoints say in the model's config alone: how many tokens a picture has."""
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
    if processor.vision_feature_select_strategy is None:
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
