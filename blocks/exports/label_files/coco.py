"""Labels out of COCO files: boxes, masks (RLE or polygons) and captions, as `formats/coco.py` writes them or others
do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sightflow.blocks.exports.label_files.found import (
    Facts,
    FoundLabel,
    UnreadableLabels,
    WrongLabel,
    box_of,
    mask_of_polygons,
    number,
    read_json,
    region,
)
from sightflow.schemas.masks import decode_mask, encode_mask, mask_fits

_MOST_PIXELS = 256 * 10**6


def read_coco(path: Path) -> Iterator[FoundLabel]:
    """The labels of one file, or of each in the folder `annotations`: of an image all annotations together.

    The name of a file is that of its enrichment where a folder is read.
    """
    files = sorted((path / "annotations").glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UnreadableLabels(f"{path} has no annotations/*.json; name a COCO file, or the folder of an export")
    for file in files:
        yield from _read_file(file, file.stem if path.is_dir() else "")


def _read_file(file: Path, enrichment: str) -> Iterator[FoundLabel]:
    content = read_json(file)
    try:
        images = _by_id(content["images"], f"{file}: image")
        categories = _by_id(content.get("categories") or (), f"{file}: category")
        names = {number: each["name"] for number, each in categories.items()}
        of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["image_id"] not in images:  # "1" is not 1: who took it for that would find the image empty
                raise UnreadableLabels(
                    f"{file}: an annotation of the image {annotation['image_id']!r}, which is not among its images"
                )
            of_image[annotation["image_id"]].append(annotation)
        described = [(image, str(image.get("uri") or image["file_name"])) for image in images.values()]
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableLabels(f"{file} is no COCO file: it lacks {error}") from None
    is_captions = any("caption" in each for annotations in of_image.values() for each in annotations)
    for image, name in described:
        annotations = of_image.get(image["id"], [])
        if is_captions and not annotations:
            continue
        yield FoundLabel(
            name,
            enrichment,
            partial(_result, image, annotations, names, is_captions),
            f"{file}: image {image['id']}",
            image.get("object_version"),
        )


def _by_id(entries: Sequence[Mapping[str, Any]], place: str) -> dict[Any, Mapping[str, Any]]:
    """Images or categories by their ids. Raises UnreadableLabels if two have the same one."""
    found: dict[Any, Mapping[str, Any]] = {}
    for each in entries:
        if found.setdefault(each["id"], each) != each:
            raise UnreadableLabels(f"{place} {each['id']!r} is there twice; give each an id of its own")
    return found


def _result(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[Any, str],
    is_captions: bool,
    facts: Facts,
) -> dict[str, Any]:
    said = (image.get("width"), image.get("height"))
    if None not in said and said != (facts["width"], facts["height"]):
        raise WrongLabel(f"the image is {said[0]} x {said[1]} here, and {facts['width']} x {facts['height']} upright")
    if is_captions:
        if len(annotations) > 1:
            raise WrongLabel(f"{len(annotations)} captions; a label has one")
        return {"text": annotations[0].get("caption")}
    return {"regions": [_region(each, names, facts) for each in annotations]}


def _region(annotation: Mapping[str, Any], names: Mapping[Any, str], facts: Facts) -> dict[str, Any]:
    category = annotation.get("category_id")
    if not isinstance(category, int | str) or not isinstance(names.get(category), str):
        raise WrongLabel(f"the category {category!r} has no name")
    mask = _mask(annotation.get("segmentation"), facts)
    box = annotation.get("bbox")
    if box is None and mask is not None:
        edges = box_of(decode_mask(mask, facts["width"], facts["height"]))
    elif isinstance(box, list) and len(box) == 4:
        x, y, width, height = map(number, box)
        edges = (x, y, x + width, y + height)
    else:
        raise WrongLabel("an annotation without a box or a mask")
    score = annotation.get("score")
    return region(names[category], edges, facts, mask=mask, score=None if score is None else number(score))


def _mask(segmentation: Any, facts: Facts) -> str | None:
    match segmentation:
        case None | []:
            return None
        case list():
            if not all(isinstance(each, list) for each in segmentation):
                raise WrongLabel("an outline that is no list of numbers")
            return mask_of_polygons(segmentation, facts)
        case {"counts": str(counts)}:
            if not mask_fits(counts, facts["width"], facts["height"]):
                raise WrongLabel("the mask's runs do not add up to the size of the image")
            return counts
        case {"counts": list(counts)}:
            return _of_runs(counts, facts)
    raise WrongLabel("a segmentation of no known form")


def _of_runs(counts: Sequence[Any], facts: Facts) -> str:
    """A mask of uncompressed runs, column by column, the first of them outside."""
    import numpy as np

    width, height = facts["width"], facts["height"]
    runs = [int(number(each)) for each in counts]
    if min(runs, default=0) < 0 or sum(runs) != width * height or width * height > _MOST_PIXELS:
        raise WrongLabel("the mask's runs do not add up to the size of the image")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return encode_mask(inside.reshape(width, height).T)
