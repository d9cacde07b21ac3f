"""InstructBLIP (arXiv:2305.06500): the classic that follows instructions, on Flan-T5 or Vicuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sightflow.blocks.models.contract import GenerationRequest, Prompt, ReplyError
from sightflow.blocks.models.instructions import instruction_prompts, text_instruction
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.replies.llava_boxes import FRACTIONS, phrase_prompts, read_fraction_boxes
from sightflow.blocks.models.reply_forms import one_of
from sightflow.blocks.models.weights import language_model_type
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.failure import Cause
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, VisionRequest

# Flan-T5 has no braces among its tokens, so JSON could not even be written by it.
_GROUNDING = "Give the bounding box of {} as [x_min, y_min, x_max, y_max], in fractions of the width and height."


class InstructBlip(OpenWeightsModel):
    """InstructBLIP: captions and short answers; its Q-Former reads the instruction as well as the picture.

    The whole picture is squeezed into a square. There is no chat template: the instruction is the prompt.
    Regions are no task of its training; grounding is asked for in words and read strictly.
    """

    _block_type_name = "Sightflow InstructBLIP"
    _block_type_slug = "sightflow-instruct-blip"

    rating = Rating(
        system="instruct-blip",
        capabilities=stars(
            captioning=4, answering=4, reasoning=2, grounding=2, detection=0, tracking=0, video_captioning=0
        ),
        deployment="medium",
        getting_started="medium",
        weights="open",
        used_by="own deployment (Hugging Face)",
        community="older, stable",
        strength="classic instruction model",
    )
    box_format = FRACTIONS
    model_class = "InstructBlipForConditionalGeneration"
    memory_gib = 10.0
    squeezes_to_square = True
    prompt_conditioned_vision: ClassVar[bool] = True
    default = ModelRef("Salesforce/instructblip-flan-t5-xl", revision="main", licence="mit")

    def on_loaded(self, processor: Any, config: Any) -> None:
        super().on_loaded(processor, config)
        if config is not None and processor.num_query_tokens is None:
            processor.num_query_tokens = config.num_query_tokens

    def unsupported_reason(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        """Fields are written as JSON, and Flan-T5 has no braces among its tokens."""
        if enrichment.capability is Capability.STRUCTURED_EXTRACTION and not self._on_vicuna():
            return f"{self.system} on Flan-T5 cannot write JSON; Salesforce/instructblip-vicuna-7b can"
        return super().unsupported_reason(enrichment, media_kind)

    def _on_vicuna(self) -> bool:
        """Whether the language model is Vicuna: as the weights' config says, or their id if they are not here."""
        path = self.local_path()
        return "vicuna" in self.ref.id.lower() if path is None else language_model_type(path) == "llama"

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if enrichment.capability is Capability.VISUAL_GROUNDING:
            return phrase_prompts(enrichment, self.max_new_tokens, _GROUNDING)
        if enrichment.capability is Capability.STRUCTURED_EXTRACTION:
            return instruction_prompts(enrichment, media_kind, self.max_new_tokens, "")
        text = text_instruction(enrichment, media_kind)
        return (Prompt(text, reply_form=one_of(enrichment.choices), max_new_tokens=self.max_new_tokens),)

    def texts(self, batch: Sequence[GenerationRequest]) -> list[str]:
        return [each.prompt.text for each in batch]

    def finish_inputs(self, inputs: Any) -> None:
        room = self._config.qformer_config.max_position_embeddings
        if (length := inputs["qformer_input_ids"].shape[1]) > room:
            raise ReplyError(f"a prompt of {length} tokens; the Q-Former reads {room}", Cause.UNSUPPORTED)
        # The processor puts the image before the padding and pads both of its tokenizers on the same side: positions
        # would depend on the rest of the batch.
        decoder_only = not self._config.get_text_config().is_encoder_decoder
        _pad(inputs, "input_ids", "attention_mask", left=decoder_only)
        _pad(inputs, "qformer_input_ids", "qformer_attention_mask", left=False)

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        if not request.enrichment.capability.gives_places:
            return read_answer(text, request.enrichment, prompt)
        return read_fraction_boxes(prompt, text, self.image_transform(request))


def _pad(inputs: Any, ids: str, mask: str, left: bool) -> None:
    """Move all padding of a batch to one side, keeping the order of what is read."""
    order = inputs[mask].argsort(dim=1, descending=not left, stable=True)
    for name in (ids, mask):
        inputs[name] = inputs[name].gather(1, order)
