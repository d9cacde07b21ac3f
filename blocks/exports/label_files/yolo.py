"""Labels out of YOLO's text files: boxes, or outlines, in fractions of the image's size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from sightflow.blocks.exports.label_files.found import (
    Facts,
    FoundLabel,
    UnreadableLabels,
    WrongLabel,
    box_of,
    label_of_file,
    lines_of,
    mask_of_polygons,
    number,
    objects_of,
    read_text,
    region,
    whole,
    without_suffix,
)
from sightflow.schemas.masks import decode_mask

_MOST_YAML = 2**20
_MOST_DEPTH = 8


class _ShallowLoader(yaml.SafeLoader):
    """PyYAML takes minutes for some thousand nested brackets."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _MOST_DEPTH:
            raise yaml.YAMLError(f"more than {_MOST_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yolo(path: Path) -> Iterator[FoundLabel]:
    """The labels of a folder with `data.yaml` and `labels/`. Where `objects.jsonl` is there, it says of which objects;
    else they are looked for by the names of their files without a suffix.
    """
    names = _names(path / "data.yaml")
    known = {without_suffix(str(each.get("file", ""))): each for each in objects_of(path)}
    folder = path / "labels"
    if not folder.is_dir():
        raise UnreadableLabels(f"{folder} is not there; name the folder of data.yaml")
    for file in sorted(folder.rglob("*.txt")):
        stem = file.relative_to(folder).with_suffix("").as_posix()
        yield label_of_file(stem, known, partial(_result, file, names), file)


def _names(file: Path) -> dict[int, str]:
    try:
        found = yaml.load(read_text(file, _MOST_YAML), _ShallowLoader)["names"]  # noqa: S506, it is a SafeLoader
        pairs = enumerate(found) if isinstance(found, list) else found.items()
        names = dict(pairs)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise UnreadableLabels(f"{file} names no classes: it has no `names`") from None
    for key, name in names.items():
        # YAML takes `no` and `on` for truth values: the name is lost. Lists and mappings may hold each other a
        # million times, and are not made text of.
        is_number = type(key) is int or (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10)
        if not is_number or not isinstance(name, int | float | str) or isinstance(name, bool):
            raise UnreadableLabels(f"{file}: the name of a class is no text; put it in quotes: names: {{0: 'no'}}")
    return {int(key): str(name) for key, name in names.items()}


def _result(file: Path, names: Mapping[int, str], facts: Facts) -> dict[str, Any]:
    return {"regions": [_region(line.split(), names, facts, place) for line, place in lines_of(file)]}


def _region(parts: Sequence[str], names: Mapping[int, str], facts: Facts, place: str) -> dict[str, Any]:
    width, height = facts["width"], facts["height"]
    label = names.get(whole(parts[0]))
    if label is None:
        raise WrongLabel(f"{place}: the class {parts[0]} has no name")
    numbers = [number(part) for part in parts[1:]]
    if len(numbers) in (4, 5):  # with a confidence, as a model's predictions have it
        x, y, w, h = (value * size for value, size in zip(numbers, (width, height, width, height), strict=False))
        return region(label, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), facts)
    if len(numbers) < 6 or len(numbers) % 2:
        raise WrongLabel(f"{place}: {len(numbers)} numbers; a box has 4, an outline 6 or more")
    mask = mask_of_polygons([[value * (width, height)[k % 2] for k, value in enumerate(numbers)]], facts)
    return region(label, box_of(decode_mask(mask, width, height)), facts, mask=mask)
