"""Boxes as the LLaVA line writes them: `[x_min, y_min, x_max, y_max]` in fractions of the picture's sides."""

from __future__ import annotations

import re

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.answer import answer_of
from sightflow.blocks.models.reply_forms import Regex
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult
from sightflow.schemas.geometry import BoxFormat, ImageTransform

FRACTIONS = BoxFormat(scale=1.0, quantum=0.01)
BOX_FORM = '"box": [x_min, y_min, x_max, y_max] in fractions of the width and height, 0 to 1'
POLYGON_FORM = '"polygon": [[x, y], ...] around it, likewise'

_FRACTION = r"(?:0(?:\.[0-9]{1,4})?|1(?:\.0{1,4})?)"
_SPACE = " ?"
_BOX_AS_ASKED = rf"\[{_SPACE}" + rf"{_SPACE},{_SPACE}".join([_FRACTION] * 4) + rf"{_SPACE}\]"
BOXES = Regex(rf"{_BOX_AS_ASKED}(?:[,;]? ?{_BOX_AS_ASKED}){{0,31}}\.?")
"""A box or some, as `read_fraction_boxes` reads them."""
COORDINATE = {"type": "number", "minimum": 0, "maximum": 1}
"""A number of a box in JSON."""

_NUMBER = r"\s*(\d{0,4}(?:\.\d{0,9})?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\][\s,;.]*")
_MOST = 1000


def phrase_prompts(enrichment: Enrichment, max_new_tokens: int, template: str) -> tuple[Prompt, ...]:
    """One prompt a phrase; `template` has a place for it, `{}`."""
    return tuple(
        Prompt(template.format(p), subject=p, reply_form=BOXES, max_new_tokens=max_new_tokens)
        for p in enrichment.phrases
    )


def read_fraction_boxes(prompt: Prompt, text: str, transform: ImageTransform) -> RegionsResult:
    """The boxes of a reply about one phrase, which must hold nothing else. Raises ReplyError or GeometryError."""
    rest, end = answer_of(text), 0
    regions: list[Region] = []
    while end < len(rest) or not regions:
        box = _BOX.match(rest, end)
        if box is None or len(regions) == _MOST:
            raise ReplyError(f"not a box [x_min, y_min, x_max, y_max], from here on: {rest[end : end + 80]!r}")
        if not all(any(c.isdigit() for c in number) for number in box.groups()):
            raise ReplyError(f"a box of four numbers was expected, not {box.group()[:80]!r}")
        numbers = [float(number) for number in box.groups()]
        regions.append(Region(prompt.subject or "", FRACTIONS.to_pixels(numbers, transform)))
        end = box.end()
    return RegionsResult(tuple(regions))
