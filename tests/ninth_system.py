"""A ninth system, as somebody would add one: one file that says everything about it, and one line in `SYSTEMS`.

It computes by itself, so it brings an engine of its own; one with weights that transformers or vLLM can run would name
one that is there.
"""

from collections.abc import Sequence

from sightflow.blocks.models.contract import Availability, Engine, Generated, GenerationRequest, Output, Prompt
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.replies.text import plain_text
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.geometry import PER_MILLE
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, VisionRequest


class Ninth(VisionModel):
    """Says how large an image is."""

    _block_type_slug = "sightflow-ninth"
    rating = Rating(
        system="ninth",
        capabilities=stars(
            captioning=5, answering=0, reasoning=0, grounding=0, detection=0, tracking=0, video_captioning=0
        ),
        deployment="easy",
        getting_started="fast",
        weights="open",
        strength="sizes",
    )
    box_format = PER_MILLE
    default = ModelRef("ninth", revision="1", licence="mit", commercial_use="yes")

    def make_engine(self) -> Engine:
        return Ruler()

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        return instruction_prompts(enrichment, media_kind, self.max_new_tokens, "")

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        return plain_text(text)


class Ruler(Engine):
    """Measures."""

    def availability(self) -> Availability:
        return Availability(True, "it needs nothing")

    def weights_digest(self) -> str:
        return "ninth@1"

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        media = [each.request.media for each in requests]
        return [Generated(f"a picture of {each.width} by {each.height} pixels") for each in media]
