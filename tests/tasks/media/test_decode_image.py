"""A picture decoded at reduced scale is the same picture: what is told of it is about the original."""

import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Limits
from sightflow.schemas.vision import VisionReply, VisionRequest
from sightflow.tasks.media.decode_image import decode

DETECT = Enrichment(capability=Capability.OBJECT_DETECTION)
TOLERANCE = 0.01


def written(image: Image.Image, form: str = "JPEG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = io.BytesIO()
    image.save(content, form, exif=exif, quality=95)
    return content.getvalue()


def decoded(content: bytes, side: int | None) -> DecodedImage:
    media = decode(content, Limits(), side)
    assert isinstance(media, DecodedImage)
    return media


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.integers(1, 8),
    st.integers(1, 400),
    st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]),
)
@example(30, 20, 6, 10, "TIFF")
def test_reduced_pictures_tell_the_size_of_the_original_and_are_never_too_small(
    width: int, height: int, orientation: int, side: int, form: str
) -> None:
    content = written(Image.new("RGB", (width, height), "teal"), form, orientation)
    whole, reduced = decoded(content, None), decoded(content, side)
    assert (reduced.width, reduced.height, reduced.sha256) == (whole.width, whole.height, whole.sha256)
    assert whole.pixels.size == (whole.width, whole.height)
    assert whole.pixels.size == ((width, height) if orientation < 5 else (height, width))
    assert min(reduced.pixels.size) >= min(side, width, height)
    assert form == "JPEG" or reduced.pixels.size == whole.pixels.size


@pytest.mark.parametrize("size", [(640, 640), (1024, 512)], ids=["square", "wide"])
def test_regions_of_reduced_pictures_are_those_of_whole_ones_within_a_hundredth_of_the_side(
    size: tuple[int, int],
) -> None:
    model = Florence2(id=str(MODEL_FOLDER), reduced_decoding=True)
    assert model.decoded_side is None, "not known before the weights are there"
    model.prepare()
    contents = [written(draw_scene(seed).image.resize(size)) for seed in range(16)]
    pairs = []
    for side in (None, model.decoded_side):
        media = [decoded(content, side) for content in contents]
        assert all((each.pixels.size < size) is (side is not None) for each in media)
        pairs.append(model.run([VisionRequest(f"s3://b/{k}", DETECT, each) for k, each in enumerate(media)]))
    for whole, reduced in zip(*pairs, strict=True):
        for one, other in zip(regions(whole), regions(reduced), strict=True):
            assert one.label == other.label
            for edge, length in zip(("x_min", "y_min", "x_max", "y_max"), size * 2, strict=True):
                assert abs(getattr(one.box, edge) - getattr(other.box, edge)) <= TOLERANCE * length


def regions(reply: VisionReply) -> list[Region]:
    assert isinstance(reply.outcome, RegionsResult)
    return sorted(reply.outcome.regions, key=lambda region: (region.label, region.box.x_min))


def test_it_is_another_recipe() -> None:
    whole, reduced = (Florence2(id=str(MODEL_FOLDER), reduced_decoding=on) for on in (False, True))
    kind = next(iter(DETECT.media_kinds))
    assert whole.recipe(DETECT, kind) != reduced.recipe(DETECT, kind)
