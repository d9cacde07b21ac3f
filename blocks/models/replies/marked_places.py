"""Places in the markup of three families: Molmo's points, PaliGemma's location tokens, InternVL's `<ref>` and `<box>`.

A reply is about one label or phrase, and holds places and nothing else; or says that there are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.answer import answer_of
from sightflow.blocks.models.replies.json_regions import label_about
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult
from sightflow.schemas.geometry import PER_MILLE, Box, BoxFormat, ImageTransform

LOCATIONS = BoxFormat(scale=1024.0, order="yxyx")
"""PaliGemma (arXiv:2407.07726, section 3.2.5): y first, in 1024 bins of a side; a place is the middle of its bin."""
PERCENT = BoxFormat(scale=100.0, quantum=0.1)
"""The points of the first Molmo (arXiv:2409.17146)."""

_NOTHING = re.compile(r"(?:there (?:is|are) )?none\.?", re.IGNORECASE)
_MOST = 10_000
_BETWEEN = re.compile(r"[\s,;.]*")
_LABEL = r"(?P<label>[^<>]{0,400})"

# Molmo2 (arXiv:2601.10611): `<points coords="1 1 385 412 2 507 413">cats</points>`: the number of the picture, then for
# each point its number and its thousandths.
_POINTS = re.compile(
    rf'<points?\s+coords="\s*1(?P<points>(?:\s+\d{{1,5}}\s+\d{{1,4}}\s+\d{{1,4}}){{1,10000}})\s*"\s*(?:/>|>{_LABEL}</points?>)'
)
_POINT = re.compile(r"\s+\d{1,5}\s+(\d{1,4})\s+(\d{1,4})")
# Molmo: `<point x="10.5" y="20.0" alt="cat">cat</point>`, and of several `<points x1="10.5" y1="20.0" x2=...`.
_PERCENT = r"\s*\d{1,3}(?:\.\d{1,6})?"
_XY_POINTS = re.compile(
    rf'<points?(?P<points>(?:\s+[xy]\d{{0,4}}="{_PERCENT}"){{2,20000}})(?:\s+alt="[^"<>]{{0,400}}")?\s*>{_LABEL}</points?>'
)
_XY_POINT = re.compile(rf'\s+x(\d{{0,4}})="({_PERCENT})"\s+y\1="({_PERCENT})"')

_LOCATED = re.compile(rf"((?:<loc\d{{4}}>){{4}}){_LABEL}")
_LOCATION = re.compile(r"<loc(\d{4})>")

_NUMBER = r"\s*(\d{1,4}(?:\.\d{1,3})?)\s*"
_FOUR = re.compile(rf"\s*\[{','.join([_NUMBER] * 4)}\]\s*,?")
_LISTS = r"\[{1,2}[\d\s.,\[\]]{1,100000}\]{1,2}"
_REFERRED = re.compile(rf"(?:<ref>{_LABEL}</ref>\s*)?(?:<box>\s*(?P<boxes>{_LISTS})\s*</box>|(?P<bare>{_LISTS}))")

Read = tuple[int, str, list[Box]]
"""Where a place ended, its label, and its boxes in pixels of the original."""


def read_points(prompt: Prompt, text: str, enrichment: Enrichment, transform: ImageTransform) -> RegionsResult:
    """The points of a reply, each as the box around it that is one native step wide and high, or a pixel if that is
    more. Raises ReplyError or GeometryError.
    """

    def read(answer: str, start: int) -> Read | None:
        for whole, each, space in ((_POINTS, _POINT, PER_MILLE), (_XY_POINTS, _XY_POINT, PERCENT)):
            if found := whole.match(answer, start):
                points = [match.groups()[-2:] for match in _all(each, found["points"])]
                label = found["label"] or ""
                label = "" if _names(label, prompt.subject or "") else label
                return found.end(), label, [_around(point, space, transform) for point in points]
        return None

    return _read(prompt, text, enrichment, read)


def read_locations(prompt: Prompt, text: str, enrichment: Enrichment, transform: ImageTransform) -> RegionsResult:
    """The boxes of a reply in location tokens, `<loc0100><loc0200><loc0300><loc0400> cat ; ...`. Raises ReplyError or
    GeometryError.
    """

    def read(answer: str, start: int) -> Read | None:
        found = _LOCATED.match(answer, start)
        if found is None:
            return None
        numbers = [int(number) + 0.5 for number in _LOCATION.findall(found[1])]
        return found.end(), found["label"].strip(" ;\n"), [LOCATIONS.to_pixels(numbers, transform)]

    return _read(prompt, text, enrichment, read)


def read_referred(prompt: Prompt, text: str, enrichment: Enrichment, transform: ImageTransform) -> RegionsResult:
    """The boxes of a reply as InternVL marks them (arXiv:2412.05271), in thousandths:
    `<ref>cat</ref><box>[[100, 200, 300, 400]]</box>`. Raises ReplyError or GeometryError.
    """

    def read(answer: str, start: int) -> Read | None:
        found = _REFERRED.match(answer, start)
        if found is None:
            return None
        lists = found["boxes"] or found["bare"]
        inside = lists[1:-1] if lists.startswith("[[") else lists
        boxes = [[float(number) for number in match.groups()] for match in _all(_FOUR, inside)]
        return found.end(), found["label"] or "", [PER_MILLE.to_pixels(box, transform) for box in boxes]

    return _read(prompt, text, enrichment, read)


def _read(prompt: Prompt, text: str, enrichment: Enrichment, read: Callable[[str, int], Read | None]) -> RegionsResult:
    answer, end = answer_of(text), 0
    if _NOTHING.fullmatch(answer):
        return RegionsResult(())
    regions: list[Region] = []
    while end < len(answer) or not regions:
        found = read(answer, end)
        if found is None or len(regions) + len(found[2]) > _MOST:
            raise ReplyError(f"neither places nor 'none', from here on: {answer[end : end + 80]!r}")
        end, label, boxes = found
        regions += [Region(label_about(label, prompt, enrichment), box) for box in boxes]
        between = _BETWEEN.match(answer, end)
        end = between.end() if between else end
    return RegionsResult(tuple(regions))


def _all(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The matches that a text consists of, one after the other. Raises ReplyError if something else is among them."""
    found = list(pattern.finditer(text))
    if not found or "".join(match.group() for match in found) != text:
        raise ReplyError(f"not all of it are places: {text[:80]!r}")
    return found


def _names(label: str, subject: str) -> bool:
    """Whether the words beside points are those of the question: "cats" for "the cat"."""
    said, asked = label.strip().casefold(), subject.strip().casefold()
    return said in asked or asked.removeprefix("the ") in said


def _around(point: Sequence[str | None], space: BoxFormat, transform: ImageTransform) -> Box:
    """The box that says where a point is: one native step wide and high, or a pixel if that is more, in the picture."""
    x, y = space.point_to_pixels([float(number or "") for number in point], transform)
    step = space.quantum / (space.scale or 1.0)
    across, down = (max(step * side, 1.0) / 2 for side in (transform.width, transform.height))
    width, height = float(transform.width), float(transform.height)
    return Box(max(x - across, 0.0), max(y - down, 0.0), min(x + across, width), min(y + down, height))
