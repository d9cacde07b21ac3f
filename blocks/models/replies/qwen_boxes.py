"""Boxes as Qwen2-VL marks them (arXiv:2409.12191, section 2.2): special tokens around thousandths of the sides."""

from __future__ import annotations

import re

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.answer import answer_of
from sightflow.blocks.models.replies.json_regions import label_about
from sightflow.blocks.models.reply_forms import Grammar
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


_NUMBER = "(1000|[0-9]{1,3})"
_MARKED_RULES = rf"""
start: / ?/ (NONE | place+)
NONE: /[Nn]one\.?/
place: (ref_start LABEL ref_end)? box_start CORNERS box_end SEPARATOR?
CORNERS: /\({_NUMBER}, ?{_NUMBER}\), ?\({_NUMBER}, ?{_NUMBER}\)/
SEPARATOR: /[ ,;.\n]{{1,3}}/
LABEL: /{{label}}/
"""
_MARKS = tuple(
    (f"{what}_{end}", rf"<\|{token}_{end}\|>")
    for what, token in (("ref", "object_ref"), ("box", "box"))
    for end in ("start", "end")
)


def marked_form(subject: str | None = None) -> Grammar:
    """The form of a reply with marked boxes, whose labels are the subject, or of any name if there is none."""
    label = r"[^<>\n\/]{1,80}"
    if subject is not None:
        label = rf"([Tt]he |[Aa]n? )?{_regex_of(subject)}"
    return Grammar(_MARKED_RULES.replace("{label}", label), _MARKS)


def _regex_of(text: str) -> str:
    """A text as a regular expression between slashes."""
    return "".join(f"\\x{{{ord(c):x}}}" if not (c.isascii() and (c.isalnum() or c == " ")) else c for c in text)


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
