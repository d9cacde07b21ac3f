"""Masks as outlines, text as marks, differences: what the pages are made of, without a page."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image, ImageDraw

from sightflow.infra.gallery import drawing
from sightflow.infra.gallery.differences import Side, compared
from sightflow.infra.gallery.drawing import outline, shapes_of, tracks_of
from sightflow.infra.gallery.media.preview_cache import PreviewCache
from sightflow.infra.gallery.panels import fields_of, price
from sightflow.infra.gallery.visible_text import visible, visible_html
from sightflow.schemas.masks import encode_mask


def filled(path: str, height: int, width: int) -> Any:
    """An SVG path of M, h, v and z, filled by the rule evenodd: by counting what lies to the left of each pixel."""
    crossings = np.zeros((height, width + 1), dtype=int)
    for part in path.split("z")[:-1]:
        start, *steps = re.findall(r"[Mhv][^Mhv]*", part)
        x, y = map(int, start[1:].split())
        for step in steps:
            length = int(step[1:])
            if step[0] == "h":
                x += length
            else:
                crossings[min(y, y + length) : max(y, y + length), x] += 1
                y += length
    return crossings.cumsum(axis=1)[:, :width] % 2 == 1


def test_masks_of_noise_are_drawn_coarser_and_not_for_ever() -> None:
    noise = encode_mask(np.random.default_rng(0).random((512, 512)) < 0.5)
    box = {"x_min": 0.0, "y_min": 0.0, "x_max": 9.0, "y_max": 9.0, "score": None, "seconds": None, "frame_index": None}
    shapes = shapes_of([{"label": "noise", **box, "mask": noise}] * 4, 512, 512)
    assert shapes[0].mask and sum(len(shape.mask or "") for shape in shapes) < 2_000_000


@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_an_outline_encloses_the_pixels_of_its_mask_and_no_other(mask: Any) -> None:
    assert (filled(outline(mask), *mask.shape) == mask).all()
    doubled = np.kron(mask, np.ones((3, 3), dtype=bool))
    assert (filled(outline(mask, 3), *doubled.shape) == doubled).all()


def test_a_place_of_a_track_has_the_outline_of_its_mask_last() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 5:20] = True
    box = {"x_min": 5.0, "y_min": 4.0, "x_max": 20.0, "y_max": 9.0}
    points = [{"seconds": k / 4, **box, "gap": k == 1, "mask": counts} for k, counts in
              enumerate([encode_mask(mask), None, "no mask"])]  # fmt: skip
    (track,) = tracks_of([{"track_id": 1, "label": "dog", "points": points}], 30, 20)
    first, *others = track["points"]
    assert first[:6] == [0.0, 5.0, 4.0, 20.0, 9.0, 0] and (filled(first[6], 20, 30) == mask).all()
    assert [(len(point), point[5]) for point in others] == [(6, 1), (6, 0)]


def film(places: int, mask: str, tracks: int = 1) -> list[dict[str, Any]]:
    box = {"x_min": 0.0, "y_min": 0.0, "x_max": 9.0, "y_max": 9.0, "gap": False, "mask": mask}
    points = [{"seconds": k / 4, **box} for k in range(places)]
    return [{"track_id": number, "label": "dog", "points": points} for number in range(tracks)]


def with_mask(track: dict[str, Any]) -> list[bool]:
    return [len(point) > 6 for point in track["points"]]


def test_every_object_of_a_film_has_its_masks_and_the_first_thousand_are_drawn() -> None:
    sheet = Image.new("1", (400, 300))
    ImageDraw.Draw(sheet).ellipse((50, 50, 300, 250), fill=1)
    mask = encode_mask(np.array(sheet))
    drawn = tracks_of(film(40, mask, tracks=20), 400, 300)
    assert all(all(with_mask(track)) for track in drawn), "coarser, but none without"
    assert sum(len(point[6]) for track in drawn for point in track["points"]) < 2_000_000
    long = tracks_of(film(300, mask, tracks=4), 400, 300)
    assert [with_mask(track) for track in long] == [[True] * 250 + [False] * 50] * 4, "the first of all of them"


def test_masks_of_noise_cost_a_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    real = drawing.decode_mask
    monkeypatch.setattr(drawing, "decode_mask", lambda *asked: decoded.append(1) or real(*asked))
    noise = encode_mask(np.random.default_rng(0).random((64, 64)) < 0.5)
    (track,) = tracks_of(film(20_000, noise), 64, 64)
    assert len(track["points"]) == 20_000 and 0 < len(decoded) <= 1000


def test_a_mask_of_another_size_is_not_drawn() -> None:
    sheet = Image.new("1", (30, 20))
    ImageDraw.Draw(sheet).ellipse((5, 5, 20, 15), fill=1)
    region = {"label": "x", "x_min": 5, "y_min": 5, "x_max": 21, "y_max": 16, "score": None, "seconds": None,
              "frame_index": None, "mask": encode_mask(np.array(sheet))}  # fmt: skip
    assert (filled(shapes_of([region], 30, 20)[0].mask or "", 20, 30) == np.array(sheet)).all()
    assert shapes_of([region], 31, 20)[0].mask is None
    assert shapes_of([{**region, "mask": "no mask"}], 30, 20)[0].mask is None


@given(st.text())
def test_text_is_shown_without_what_steers(text: str) -> None:
    plain = visible(text)
    assert not re.search("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", plain)
    html = str(visible_html(text))
    assert re.sub('<span class="hidden-character">|</span>', "", html).count("<") == 0
    assert visible("a\u200db\tc\nd") == "a\u200db\tc\nd"


def test_fields_are_told_with_their_paths() -> None:
    assert fields_of('{"a": {"b": [1, "x"]}, "c": null}') == [("a.b[0]", "1"), ("a.b[1]", "x"), ("c", "null")]
    assert fields_of("[" * 5000) == [("", "[" * 5000)]
    assert fields_of(None) is None
    assert [price(each) for each in (None, 0, 0.00123, 12.5)] == ["free", "free", "$0.00123", "$12.50"]


def row(**given: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("text", "segments", "regions", "tracks", "extracted", "parameters"))
    return {**empty, "width": 100, "height": 100, **given}


def region(label: str, left: float) -> dict[str, Any]:
    return {"label": label, "x_min": left, "y_min": 0, "x_max": left + 10, "y_max": 10, "score": None, "mask": None,
            "frame_index": None, "seconds": None}  # fmt: skip


def test_what_differs_between_two_results_is_marked() -> None:
    left, right = compared(row(text="a red <b>cat</b>"), row(text="a blue <b>cat</b>"))
    assert str(left["marked"]) == "a <mark>red</mark> &lt;b&gt;cat&lt;/b&gt;"
    assert "<mark>blue</mark>" in right["marked"]
    regions = [region("cat", 0), region("cat", 1), region("dog", 50)], [region("cat", 2), region("dog", 80)]
    left, right = compared(row(regions=regions[0]), row(regions=regions[1]))
    assert (left["only"], right["only"]) == ({0, 2}, {1})
    left, right = compared(row(extracted='{"a": 1, "b": 2}'), row(extracted='{"a": 1, "b": 3}'))
    assert left["differing_fields"] == right["differing_fields"] == {"b"}
    assert compared(None, row(text="x"))[0] is None
    assert Side.of("caption@12") == Side("caption", 12) and Side.of("caption") == Side("caption")
    assert Side.of("../x") is None and Side.of("a@-1") is None


def test_previews_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    cache = PreviewCache(tmp_path / "c", most_bytes=2**20)
    for place in range(40):
        cache.put(bytes(2**19), "key", str(place))
    held = [place for place in range(40) if cache.get("key", str(place))]
    assert len(held) < 40 and sum(f.stat().st_size for f in (tmp_path / "c").rglob("*") if f.is_file()) < 18 * 2**20
    assert 39 in held or 38 in held
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "c").rglob("*") if file.is_file())
