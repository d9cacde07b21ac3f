"""Boxes as Qwen2-VL marks them (arXiv:2409.12191, section 2.2): special tokens around thousandths of the sides."""

from __future__ import annotations

import re

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.answer import answer_of
from sightflow.blocks.models.replies.json_regions import label_about
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult
from sightflow.schemas.geometry import PER_MILLE, ImageTransform

_NOTHING = "none"
MARKED_QUESTION = f"Find <|object_ref_start|>{{}}<|object_ref_end|> in the image. If there is none, answer: {_NOTHING}."
"""Asks for one label or phrase; it has a place for it, `{}`."""

_MOST = 10_000
_POINT = r"\((\d{1,5}),\s*(\d{1,5})\)"
_CORNERS = rf"\s*{_POINT}\s*,\s*{_POINT}\s*"
_MARKED = re.compile(
    r"(?:<\|object_ref_start\|>(?P<label>[^<]{1,200})<\|object_ref_end\|>\s*)?"
    rf"<\|box_start\|>{_CORNERS}<\|box_end\|>[\s,;.]*"
)
# The same without the special tokens, as servers give it that leave those out.
_BARE = re.compile(rf"(?P<label>[^<>()\[\]{{}}]{{0,200}}?){_CORNERS}[\s,;.]*")


def read_marked_boxes(prompt: Prompt, text: str, enrichment: Enrichment, transform: ImageTransform) -> RegionsResult:
    """The boxes of a reply, which must hold nothing else; a reply of only "none" has none.

    Raises ReplyError, also for a label that was not asked for, or GeometryError.
    """
    rest, end, label = answer_of(text), 0, ""
    regions: list[Region] = []
    if rest.rstrip(".").casefold() == _NOTHING:
        return RegionsResult(())
    while end < len(rest) or not regions:
        match = _MARKED.match(rest, end)
        if match is None and prompt.subject is not None:
            match = _BARE.match(rest, end)
        if match is None or len(regions) == _MOST:
            raise ReplyError(f"neither a place nor {_NOTHING!r}, from here on: {rest[end : end + 80]!r}")
        label = match["label"] or label  # a label is said once for all its places
        numbers = [float(number) for number in match.groups()[1:]]
        regions.append(Region(label_about(label, prompt, enrichment), PER_MILLE.to_pixels(numbers, transform)))
        end = match.end()
    return RegionsResult(tuple(regions))
