"""What is drawn lies on what it names, in the pixels of the screen, against the truth of the drawing."""

import io
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sightflow.schemas.geometry import Box
from tests.infra.gallery.conftest import Demo, Served, Watched, until

Pixels = npt.NDArray[np.int16]
# All that is drawn but for one shape is taken away, all text, and the picture below it where that is wanted.
SHOW = """([which, media]) => {
  document.querySelector('.stage img, .stage video').style.visibility = media ? '' : 'hidden';
  const shapes = [...document.querySelectorAll('.over .shape')];
  shapes.forEach((shape, k) => { shape.style.visibility = k === which ? 'visible' : 'hidden'; });
  document.querySelectorAll('.over text').forEach((text) => { text.style.visibility = 'hidden'; });
}"""


def screen(page: Any) -> Pixels:
    shot = page.locator(".stage").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=np.int16)


def drawn(page: Any, which: int) -> npt.NDArray[np.bool_]:
    """The pixels of the stage that one shape changes."""
    page.evaluate(SHOW, [which, False])
    with_it = screen(page)
    page.evaluate(SHOW, [-1, False])
    return np.asarray(np.abs(with_it - screen(page)).max(axis=2) > 24)


def extent(mask: npt.NDArray[np.bool_], scale: float) -> Box:
    """The box around some pixels of the screen, in pixels of the original."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(*(float(edge) / scale for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))


@pytest.mark.parametrize("name", ["0001.png", "0004.png"])
def test_boxes_and_masks_lie_on_the_shapes_that_they_name(
    demo: Demo, served: Served, watched: Watched, name: str
) -> None:
    page, scene = watched.page, demo.scenes[name]
    page.goto(f"{served.url}object?uri={quote(demo.uri(name))}")
    until(page, "document.querySelector('.stage img').naturalWidth > 0")
    scale = page.locator(".stage").bounding_box()["width"] / scene.image.width
    page.evaluate(SHOW, [-1, True])
    # The picture itself is where the truth is: the middle of each shape has the shape's colour.
    shown = screen(page)
    original = np.asarray(scene.image, dtype=np.int16)
    truth = {thing.label: thing for thing in scene.objects}
    for thing in scene.objects:
        y = int(np.median(np.nonzero(thing.mask)[0]))
        x = int(np.median(np.flatnonzero(thing.mask[y])))
        assert np.abs(shown[int((y + 0.5) * scale), int((x + 0.5) * scale)] - original[y, x]).max() < 40
    shapes = page.evaluate(
        "[...document.querySelectorAll('.over .shape')]"
        ".map((s) => [s.querySelector('text').textContent.replace(/ [0-9.]+$/, ''), !!s.querySelector('.mask')])"
    )
    boxes = [label for label, has_mask in shapes if not has_mask]
    assert set(boxes) == set(truth) and len(boxes) == len(truth), "the demo's model names every shape once"
    for which, (label, has_mask) in enumerate(shapes):
        if has_mask and label not in truth:
            continue  # the model sees one that is not there
        pixels, thing = drawn(page, which), truth[label]
        assert extent(pixels, scale).iou(Box(*thing.box)) > 0.7, label
        if has_mask:
            inside = np.asarray(
                Image.fromarray(thing.mask).resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.NEAREST)
            )
            overlap = (pixels & inside).sum() / (pixels | inside).sum()
            assert overlap > 0.6, (label, overlap)


def test_tracks_lie_on_the_shapes_of_the_frame_that_is_shown(demo: Demo, served: Served, watched: Watched) -> None:
    page, clip = watched.page, demo.clip
    page.goto(f"{served.url}object?uri={quote(demo.uri('film.mp4'))}")
    until(page, "document.querySelector('video')?.readyState >= 2")
    tracks = page.evaluate(
        "Object.values(JSON.parse(document.querySelector('script.tracks').textContent))[0].map((t) => t.label)"
    )
    assert sorted(tracks) == sorted(f"{mover.colour} {mover.shape}" for mover in clip.movers)
    scale = page.locator(".stage").bounding_box()["width"] / clip.width
    seen = []
    for seconds in (0.5, 1.6, 2.9):
        # The film plays until the browser itself says that a frame of so late is on the screen.
        page.evaluate(
            """(until) => new Promise((done) => {
              const video = document.querySelector('video');
              video.controls = false;
              const wait = (_, frame) => { if (frame.mediaTime >= until) { video.pause(); setTimeout(done, 100); }
                else video.requestVideoFrameCallback(wait); };
              video.requestVideoFrameCallback(wait);
              video.play();
            })""",
            seconds,
        )
        at = float(page.locator(".stage").get_attribute("data-time"))
        seen.append(at)
        _, objects = clip.frame(round(at * clip.frame_rate))
        truth = {thing.label: Box(*thing.box) for thing in objects}
        page.evaluate(SHOW, [-1, True])
        shown = screen(page)
        shapes = page.evaluate(
            "[...document.querySelectorAll('.over .shape')]"
            ".map((s) => [s.querySelector('text').textContent, s.classList.contains('off')])"
        )
        assert {label for label, off in shapes if not off} == set(truth)
        for which, (label, off) in enumerate(shapes):
            if not off:
                assert extent(drawn(page, which), scale).iou(truth[label]) > 0.6, (label, at)
        # And the frame on the screen is that frame.
        for thing in objects:
            rows, columns = np.nonzero(thing.mask)
            x, y = float(columns.mean()), float(rows.mean())
            mover = clip.movers[thing.placement]
            if thing.mask[int(y), int(x)]:
                assert np.abs(shown[int(y * scale), int(x * scale)] - np.array(mover.rgb)).max() < 60
    assert len(set(seen)) == 3 and seen == sorted(seen)


def test_the_mask_of_a_track_lies_on_its_object(demo: Demo, served: Served, watched: Watched) -> None:
    page, clip = watched.page, demo.clip
    page.goto(f"{served.url}object?uri={quote(demo.uri('film.mp4'))}")
    until(page, "document.querySelector('video')?.readyState >= 2")
    shapes = '.layer[data-layer="tracks_with_masks"] .shape'
    for seconds in (0.0, 1.0):
        page.evaluate("(seconds) => document.querySelector('.stage').player.seek(seconds)", seconds)
        until(page, "(at) => Math.abs(Number(document.querySelector('.stage').dataset.time) - at) < 0.05", seconds)
        truth = {thing.label: thing.mask for thing in clip.frame(round(seconds * clip.frame_rate))[1]}
        places = page.evaluate(
            """(shapes) => [...document.querySelectorAll(`${shapes}:not(.off)`)].map((shape) => {
              const box = shape.querySelector('.mask').getBBox();
              return [shape.querySelector('text').textContent, box.x, box.y, box.x + box.width, box.y + box.height];
            })""",
            shapes,
        )
        assert len(places) > 1
        for label, *edges in places:
            rows, columns = np.nonzero(truth[label])
            assert Box(*edges).iou(Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)) > 0.6, label
    page.evaluate("() => document.querySelector('.stage').player.seek(1.125)")
    until(page, "document.querySelector('.stage').dataset.time > 1.1")
    outlines = (
        "(shapes) => [...document.querySelectorAll(shapes)].map((s) => s.querySelector('.mask').getAttribute('d'))"
    )
    assert set(page.evaluate(outlines, shapes)) == {""}, "between two places there is a box and no mask"


def test_the_scrubber_and_the_keys_step_through_the_film(demo: Demo, served: Served, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{served.url}object?uri={quote(demo.uri('film.mp4'))}")
    until(page, "document.querySelector('video')?.readyState >= 2")
    page.keyboard.press(".")
    until(page, "Math.abs(document.querySelector('.stage').dataset.time - 0.125) < 0.01")
    page.keyboard.press(".")
    until(page, "Math.abs(document.querySelector('.stage').dataset.time - 0.25) < 0.01")
    page.keyboard.press(",")
    until(page, "Math.abs(document.querySelector('.stage').dataset.time - 0.125) < 0.01")
    page.locator(".scrubber input").fill("2")
    until(page, "Math.abs(document.querySelector('.stage').dataset.time - 2) < 0.01")
    assert page.locator(".scrubber output").inner_text() == "2.00 s"
