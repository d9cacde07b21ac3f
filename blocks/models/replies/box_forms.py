"""The forms in which families of chat models write boxes: how each is asked for and read.

A family speaks one of them; which, `chat/families.py` says, or the setting `box_format`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.replies.json_regions import read_regions
from sightflow.blocks.models.replies.llava_boxes import COORDINATE, FRACTIONS
from sightflow.blocks.models.replies.marked_places import read_locations, read_points, read_referred
from sightflow.blocks.models.replies.qwen_boxes import MARKED_QUESTION, marked_form, read_marked_boxes
from sightflow.blocks.models.replies.regions_schema import MOST_PIXELS, region_form
from sightflow.blocks.models.reply_forms import FreeText, ReplyForm
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult
from sightflow.schemas.geometry import PER_MILLE, PIXELS_SEEN, BoxFormat, ImageTransform

Reader = Callable[[Prompt, str, Enrichment, ImageTransform], RegionsResult]

_POLYGON = '"polygon": [[x, y], ...] around it, likewise'
_IF_NONE = " If there is none, answer: none."


@dataclass(frozen=True)
class BoxForm:
    """One form. `space`: of its numbers. `key`, `numbers`: of JSON, what a box is called and what its numbers are.
    `question`: of the others, which are asked about one label or phrase at a time, with a place for it.
    `form_about`: what the reply about one may look like.
    `only_points`: a place has no extent.
    """

    space: BoxFormat
    key: str = ""
    numbers: str = ""
    question: str = ""
    reader: Reader | None = None
    form_about: Callable[[str], ReplyForm] = lambda _: FreeText()
    only_points: bool = False

    @property
    def in_json(self) -> bool:
        return bool(self.key)

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind, max_new_tokens: int) -> tuple[Prompt, ...]:
        """The questions for the regions of an enrichment: one in JSON, else one a label or phrase."""
        if not self.in_json:
            subjects = enrichment.phrases or enrichment.labels
            return tuple(
                Prompt(
                    self.question.format(each),
                    subject=each,
                    reply_form=self.form_about(each),
                    max_new_tokens=max_new_tokens,
                )
                for each in subjects
            )
        asked, form = f'"{self.key}": {self.numbers}', region_form(enrichment, self.key, self._coordinate)
        return instruction_prompts(enrichment, media_kind, max_new_tokens, asked, _POLYGON, form)

    @property
    def _coordinate(self) -> dict[str, Any]:
        """A number of a box in JSON, as JSON Schema."""
        if self.space is FRACTIONS:
            return COORDINATE
        return {"type": "integer", "minimum": 0, "maximum": int(self.space.scale or MOST_PIXELS)}

    def read(self, prompt: Prompt, text: str, enrichment: Enrichment, transform: ImageTransform) -> RegionsResult:
        """The regions of a reply, in pixels of the original. Raises ReplyError or GeometryError."""
        if self.reader is not None:
            return self.reader(prompt, text, enrichment, transform)
        return read_regions(text, enrichment, self.space, transform, (self.key,))

    def refusal(self, enrichment: Enrichment) -> str | None:
        """Why an enrichment cannot be asked for in this form, or None."""
        capability = enrichment.capability
        if capability is Capability.SEGMENTATION and not self.in_json:
            return "it writes no outlines"
        if capability is Capability.OBJECT_TRACKING and self.only_points:
            return "it points and gives no boxes, which tracks are linked by"
        if not self.in_json and not (enrichment.phrases or enrichment.labels):
            return "it is asked about one label at a time: name the labels"
        return None


BOX_FORMS: dict[str, BoxForm] = {
    "thousandths": BoxForm(PER_MILLE, "bbox_2d", "[x_min, y_min, x_max, y_max] in 0-1000"),
    "thousandths_y_first": BoxForm(
        BoxFormat(scale=1000.0, order="yxyx", point_order="xy"),
        "box_2d",
        "[y_min, x_min, y_max, x_max] normalized to 0-1000",
    ),
    "pixels": BoxForm(PIXELS_SEEN, "bbox_2d", "[x_min, y_min, x_max, y_max] in pixels"),
    "fractions": BoxForm(FRACTIONS, "box", "[x_min, y_min, x_max, y_max] in fractions of the width and height, 0 to 1"),
    "marked": BoxForm(PER_MILLE, question=MARKED_QUESTION, reader=read_marked_boxes, form_about=marked_form),
    "referred": BoxForm(
        PER_MILLE,
        question="Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
        + _IF_NONE,
        reader=read_referred,
    ),
    "points": BoxForm(PER_MILLE, question="Point to {}." + _IF_NONE, reader=read_points, only_points=True),
    "loc": BoxForm(BoxFormat(scale=1024.0, order="yxyx"), question="detect {}", reader=read_locations),
}
"""By the word that `box_format` takes."""
