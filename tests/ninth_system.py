"""A ninth system, as somebody would add one: one file that says everything about it, and one line in `SYSTEMS`."""

from collections.abc import Sequence
from typing import ClassVar

from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.vision_model import Availability, Generated, Prompt, VisionModel, plain_text
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.geometry import PER_MILLE
from sightflow.schemas.ratings import Rating
from sightflow.schemas.vision import ModelRef, VisionReply, VisionRequest


class Ninth(VisionModel):
    """Says how large a picture is."""

    _block_type_slug = "sightflow-ninth"
    rating = Rating(
        system="ninth",
        capabilities={c: 5 if c is Capability.IMAGE_CAPTIONING else 0 for c in Capability},
        deployment="easy",
        getting_started="fast",
        weights="open",
        strength="sizes",
    )
    box_format = PER_MILLE
    hosted: ClassVar[bool] = False
    default = ModelRef("ninth", revision="1", licence="mit", commercial_use="yes")

    def availability(self) -> Availability:
        return Availability(True, "it needs nothing")

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        return instruction_prompts(enrichment, media_kind, self.max_new_tokens, "")

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        replies = []
        for request in requests:
            (prompt,) = self.prompts(request.enrichment, request.media.kind)
            said = f"a picture of {request.media.width} by {request.media.height} pixels"
            replies.append(self.reply(request, [(prompt, Generated(said))]))
        return replies

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        return plain_text(text)
