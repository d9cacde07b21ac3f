"""A mask's outline is one polygon that fills to the same pixels again, by other people's filling too."""

from pathlib import Path

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sightflow.blocks.exports.export import export_format
from sightflow.blocks.exports.outlines import outline
from sightflow.schemas.masks import Bitmap, encode_mask, encode_polygons
from tests.blocks.exports.random_rows import write
from tests.schemas.tables.test_catalog import region, row

BITMAPS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)).filter(lambda bitmap: bitmap.any())


@given(BITMAPS)
def test_pycocotools_fills_it_to_the_same_mask(bitmap: Bitmap) -> None:
    height, width = bitmap.shape
    polygon = outline(bitmap)
    assert encode_polygons([polygon.reshape(-1).tolist()], width, height) == encode_mask(bitmap)


@given(BITMAPS, st.integers(3, 6))
def test_opencv_fills_it_with_holes_and_all_parts(bitmap: Bitmap, scale: int) -> None:
    """OpenCV draws the line too, half of which lies outside: on an enlarged image the inside of each pixel is exact."""
    height, width = bitmap.shape
    canvas = np.zeros((height * scale, width * scale), dtype=np.uint8)
    cv2.fillPoly(canvas, [(outline(bitmap) * scale).astype(np.int32)], 1)
    centres = canvas[scale // 2 :: scale, scale // 2 :: scale]
    inner = bitmap & (centres == 1)
    assert (inner == bitmap).all()


def test_a_plain_shape_has_its_corners_alone() -> None:
    bitmap = np.zeros((5, 6), dtype=bool)
    bitmap[1:4, 2:5] = True
    assert sorted(map(tuple, outline(bitmap).tolist())) == [(2, 1), (2, 4), (5, 1), (5, 4)]


def test_a_mask_of_noise_is_left_out_and_told_instead_of_filling_the_memory(tmp_path: Path) -> None:
    noise = np.indices((1200, 600)).sum(axis=0) % 2 == 0
    regions = [region(mask=encode_mask(noise)), region(mask=encode_mask(np.ones((1200, 600), dtype=bool)))]
    masks = {"enrichment": "masks", "capability": "segmentation", "width": 600, "height": 1200, "regions": regions}
    for name in ("yolo", "label-studio"):
        left_out = write([row(uri="s3://b/a.jpg", **masks)], export_format(name), tmp_path / name, "masks")
        assert dict(left_out.items()) == {"masks whose outline has more than half a million edges": 1}
    (line,) = (tmp_path / "yolo" / "labels" / "a.txt").read_text().splitlines()
    assert len(line.split()) == 9
