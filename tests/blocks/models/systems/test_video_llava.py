"""Video-LLaVA: eight frames a film as the library takes them, and the square that it sees of a picture."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.systems.video_llava import VideoLlava, eight_frames
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, FrameSampling, RegionsResult
from sightflow.schemas.geometry import Box
from sightflow.schemas.masks import decode_mask
from tests.tiny_models import video_llava
from tests.tiny_models.families import blank, generator, noise, noisy_video, request, said_by_the_library, units

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("cat", "dog"))
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=("cat",))
LIMIT = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoLlava:
    model = VideoLlava(id=str(video_llava.build(tmp_path_factory.mktemp("video") / "tiny")), max_new_tokens=LIMIT)
    model.prepare()
    return model


def parse(enrichment: Enrichment, text: str, width: int = 640, height: int = 480) -> Any:
    model = VideoLlava()
    prompt = model.prompts(enrichment, MediaKind.IMAGE)[0]
    return model.parse(request(enrichment, blank(width, height)), prompt, text)


def edges(box: Box) -> tuple[float, float, float, float]:
    return (box.x_min, box.y_min, box.x_max, box.y_max)


def same(ours: Any, theirs: Any) -> None:
    assert set(ours) == set(theirs)
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("size", [(56, 56), (112, 50), (40, 170)], ids=str)
def test_a_picture_is_asked_about_as_the_library_does_it(model: VideoLlava, size: tuple[int, int]) -> None:
    media = noise(*size)
    (unit,) = units(model, request(CAPTION, media))
    text = f"USER: <image>\n{unit.prompt.text} ASSISTANT:"
    theirs = model._processor(text=text, images=media.pixels, return_tensors="pt")
    same(generator(model).inputs([unit]), theirs)
    (tokens,) = said_by_the_library(model, theirs, theirs["input_ids"].shape[1], LIMIT)
    said = model.run([unit.request])[0]
    assert said.raw_reply == model._processor.tokenizer.decode(tokens, skip_special_tokens=True)


def test_a_film_is_asked_about_as_the_library_does_it(model: VideoLlava) -> None:
    video = noisy_video(8)
    (unit,) = units(model, request(VIDEO, video))
    clip = np.stack([np.asarray(frame) for frame in video.frames])
    theirs = model._processor(text=f"USER: <video>\n{unit.prompt.text} ASSISTANT:", videos=clip, return_tensors="pt")
    same(generator(model).inputs([unit]), theirs)
    (tokens,) = said_by_the_library(model, theirs, theirs["input_ids"].shape[1], LIMIT)
    said = model.run([unit.request])[0]
    assert said.raw_reply == model._processor.tokenizer.decode(tokens, skip_special_tokens=True)


def test_pictures_and_films_of_one_batch_keep_to_their_own(model: VideoLlava) -> None:
    video, image = noisy_video(8), noise(60, 40)
    inputs = generator(model).inputs(
        units(model, request(VIDEO, video), request(CAPTION, image), request(VIDEO, video))
    )
    assert len(inputs["pixel_values_videos"]) == 2
    images = inputs.get("pixel_values", inputs.get("pixel_values_images"))
    assert len(images) == 1


@pytest.mark.parametrize(
    ("given_", "places"),
    [
        (1, [0] * 8),
        (3, [0, 0, 1, 1, 1, 1, 2, 2]),
        (8, list(range(8))),
        (15, [0, 2, 4, 6, 8, 10, 12, 14]),
    ],
)
def test_a_film_is_always_eight_frames_in_their_order(given_: int, places: list[int]) -> None:
    video = noisy_video(given_)
    seen = eight_frames(video)
    assert [next(k for k, f in enumerate(video.frames) if np.array_equal(f, frame)) for frame in seen] == places


def test_eight_frames_are_asked_for_whatever_else_is_wished_but_the_stretch() -> None:
    wished = VIDEO.model_copy(update={"sampling": FrameSampling(fps=5, start=2, end=9)})
    assert VideoLlava().sampling(VIDEO) == FrameSampling(frames=8)
    assert VideoLlava().sampling(wished) == FrameSampling(frames=8, start=2, end=9)
    tracked = Enrichment(capability=Capability.OBJECT_TRACKING, sampling=FrameSampling(fps=5))
    assert VideoLlava().sampling(tracked) == tracked.sampling


def test_a_box_is_in_fractions_of_the_square_in_the_middle() -> None:
    text = '[{"label": "cat", "box": [0, 0, 0.5, 1]}]'
    (landscape,) = parse(DETECT, text, 640, 480).regions
    assert edges(landscape.box) == (80, 0, 320, 480)
    (portrait,) = parse(DETECT, text, 480, 640).regions
    assert edges(portrait.box) == (0, 80, 240, 560)


def test_the_square_is_what_the_processor_cuts_out(model: VideoLlava) -> None:
    wide = np.zeros((56, 112, 3), dtype=np.uint8)
    wide[:, 28:84] = 255  # the square in the middle, and nothing else
    inputs = model._processor(text="<image>", images=Image.fromarray(wide), return_tensors="pt")
    images = inputs.get("pixel_values", inputs.get("pixel_values_images"))
    assert (images > 1).all()


def test_an_outline_becomes_a_mask_of_the_original_s_size() -> None:
    outline = [[0, 0], [1, 0], [1, 1], [0, 1]]
    (region,) = parse(SEGMENT, f'[{{"label": "cat", "box": [0, 0, 1, 1], "polygon": {outline}}}]').regions
    mask = decode_mask(region.mask, 640, 480)
    assert mask[:, 80:560].all() and mask.sum() == 480 * 480


def test_no_region_is_an_answer_and_prose_is_none() -> None:
    assert parse(DETECT, "[]") == RegionsResult(())
    with pytest.raises(ReplyError):
        parse(DETECT, "There is a cat on the left.")
    with pytest.raises(ReplyError):
        parse(DETECT, '[{"label": "horse", "box": [0, 0, 1, 1]}]')
