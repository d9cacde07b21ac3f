"""Masks: what is encoded decodes to the same pixels; what does not fit its picture is found out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sightflow.schemas.masks import Bitmap, decode_mask, encode_mask, encode_polygons, enlarged, mask_fits

bitmaps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(bitmaps)
def test_a_bitmap_survives_encoding(bitmap: np.ndarray) -> None:
    height, width = bitmap.shape
    counts = encode_mask(bitmap)
    assert mask_fits(counts, width, height)
    assert (decode_mask(counts, width, height) == bitmap).all()


@given(bitmaps, st.integers(-3, 3).filter(bool))
def test_a_mask_of_another_size_does_not_fit(bitmap: np.ndarray, off: int) -> None:
    height, width = bitmap.shape
    if height + off > 0:
        assert not mask_fits(encode_mask(bitmap), width, height + off)


@given(st.text(max_size=60))
def test_any_text_is_judged_without_harm(counts: str) -> None:
    if mask_fits(counts, 7, 5):
        assert decode_mask(counts, 7, 5).shape == (5, 7)
    else:
        with pytest.raises(ValueError, match="7 x 5"):
            decode_mask(counts, 7, 5)


def test_a_polygon_fills_its_inside() -> None:
    mask = decode_mask(encode_polygons([[2, 1, 8, 1, 8, 5, 2, 5]], 10, 6), 10, 6)
    assert mask.sum() == 24
    assert mask[1:5, 2:8].all()


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any),
    st.floats(1, 4),
    st.floats(1, 4),
)
def test_a_mask_that_is_enlarged_is_not_lost(mask: Bitmap, down: float, across: float) -> None:
    height, width = round(mask.shape[0] * down), round(mask.shape[1] * across)
    large = enlarged(mask, width, height)
    assert large.shape == (height, width) and large.any()
    again = Image.fromarray(large).resize((mask.shape[1], mask.shape[0]), Image.Resampling.NEAREST)
    assert large.all() == mask.all() and not (np.asarray(again) & ~grown(mask)).any()


def grown(mask: Bitmap) -> Bitmap:
    """A mask and the pixels next to it."""
    padded = np.pad(mask, 1)
    shifted = [padded[k : k + mask.shape[0], j : j + mask.shape[1]] for k in range(3) for j in range(3)]
    return np.logical_or.reduce(shifted)
