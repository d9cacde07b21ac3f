"""What a model may say: each system reads it as a result in the catalog's form, or says that it is malformed."""

import json

import pytest
from hypothesis import strategies as st
from PIL import Image

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.systems import SYSTEMS
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.geometry import GeometryError
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionRequest
from tests.fuzz.mutation import fuzz, mutated_text
from tests.loopback.hosted_systems import mask_png

IMAGE = DecodedImage(Image.new("RGB", (64, 48)), 64, 48, "0" * 64)
ASKED = tuple(
    Enrichment.model_validate(asked)
    for asked in (
        {"capability": "captioning"},
        {"capability": "vqa", "question": "Is it a box?", "choices": ["yes", "no", "a box"]},
        {"capability": "reasoning", "question": "Why is it a box?"},
        {"capability": "grounding", "phrases": ["the red box"]},
        {"capability": "detection", "labels": ["box", "ball"]},
        {"capability": "segmentation", "labels": ["box"]},
    )
)
_BOX = {"label": "box", "box": [1, 2, 30, 40], "box_2d": [2, 1, 40, 30], "bbox_2d": [1, 2, 30, 40], "score": 0.5}
_OUTLINES = (
    {"polygon": [[1, 2], [30, 2], [30, 40]]}, {"mask": [[1, 2], [30, 2], [30, 40]]},
    {"mask": mask_png(Image.new("L", (4, 4), 255))},
)  # fmt: skip
REPLIES = [
    "A box on a table.",
    "<think>a box?</think>The answer is **yes**.",
    "Answer: (B) no<|im_end|></s>",
    "```json\n" + json.dumps([_BOX]) + "\n```",
    *(json.dumps({"regions": [_BOX | outline]}) for outline in _OUTLINES),
    "[0.1, 0.2, 0.5, 0.6]",
    "<|object_ref_start|>box<|object_ref_end|><|box_start|>(10,20),(300,400)<|box_end|>",
    "box<loc_52><loc_332><loc_932><loc_774>ball<loc_1><loc_2><loc_3><loc_4>",
    "box<loc_52><loc_332><loc_932><loc_774><loc_5><loc_6>",
    "none",
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_reply_is_read_or_malformed(system: str, seconds: float) -> None:
    model = open_model(system)
    served = [each for each in ASKED if not model.unsupported_reason(each, MediaKind.IMAGE)]

    def read(said: tuple[str, Enrichment]) -> None:
        text, asked = said
        for prompt in model.prompts(asked, MediaKind.IMAGE):
            try:
                model.parse(VisionRequest("s3://bucket/x.png", asked, IMAGE), prompt, text)
            except (ReplyError, GeometryError):
                continue

    fuzz(read, st.tuples(mutated_text(REPLIES), st.sampled_from(served)), seconds)
