"""The table: every system, every capability, both kinds of media; each cell a valid row out of the flow or a refusal.

Hosted systems answer over their real SDKs from loopback. Of the local ones the classes, processors, prompts and parsers
are the real ones on tiny weights; what trained weights would say is put into their mouth in each system's own form.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models import registry as systems
from sightflow.blocks.models.contract import Generated, GenerationRequest
from sightflow.blocks.models.detection.generator import DetectionGenerator
from sightflow.blocks.models.detection.masks import Sam3Generator
from sightflow.blocks.models.engines.transformers.chat_generation import ChatGenerator
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.detections import Detection, write_detections
from sightflow.blocks.models.systems import SYSTEMS
from sightflow.blocks.models.systems.florence2 import Florence2Generator
from sightflow.flows.enrich import enrich
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.failure import SpecError
from sightflow.schemas.masks import encode_mask
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.route import resolve_enrichments
from tests.loopback.hosted_systems import GEMINI, GPT, KEY, QWEN, System, image_with_box, seen_box
from tests.loopback.server import Behaviour, Received, Say
from tests.tiny_models import detectors, instruct_blip, llava_next, qwen_vl, segmenters, video_llava

pytestmark = pytest.mark.usefixtures("prefect_server")

BOX = (40.0, 30.0, 120.0, 100.0)
SIZE = (200, 150)
QUESTIONS: dict[Capability, dict[str, Any]] = {
    Capability.IMAGE_CAPTIONING: {},
    Capability.VISUAL_QUESTION_ANSWERING: {"question": "Is there a box?", "choices": ["yes", "no"]},
    Capability.VISUAL_REASONING: {"question": "Why is it red?"},
    Capability.VISUAL_GROUNDING: {"phrases": ["the red box"]},
    Capability.OBJECT_DETECTION: {"labels": ["box"]},
    Capability.SEGMENTATION: {"labels": ["box"]},
    Capability.OBJECT_TRACKING: {"labels": ["box"]},
    Capability.VIDEO_CAPTIONING: {},
    Capability.STRUCTURED_EXTRACTION: {
        "schema": {"type": "object", "properties": {"kind": {"type": "string", "enum": ["box", "ball"]}}}
    },
}
CELLS = [(capability, kind) for capability in Capability for kind in MediaKind if kind in capability.media_kinds]
BUILD: dict[str, Callable[[Path], Path]] = {
    "llava-next": llava_next.build,
    "florence-2": lambda _: MODEL_FOLDER,
    "video-llava": video_llava.build,
    "qwen2-vl": partial(qwen_vl.build, generation="qwen2_vl"),
    "instruct-blip": partial(instruct_blip.build, language_model="t5"),
    "detector": partial(detectors.build, family="owlv2"),
    "chat": partial(qwen_vl.build, generation="qwen3_vl"),
    "segmenter": partial(segmenters.build, family="sam3"),
}
HOSTED: dict[str, System] = {"gpt-4o": GPT, "gemini": GEMINI, "qwen-vl-max": QWEN}
SEES_ONLY_IMAGES = {"llava-next", "instruct-blip"}


def served(system: str, capability: Capability, kind: MediaKind) -> bool:
    """What the comparison table promises."""
    if system == "instruct-blip" and capability is Capability.STRUCTURED_EXTRACTION:
        return False  # these weights are on T5
    rated_0 = systems.system_class(system).rating.of(capability) == 0
    return not rated_0 and not (kind is MediaKind.VIDEO and system in SEES_ONLY_IMAGES)


def asked(system: str, capability: Capability, kind: MediaKind) -> dict[str, Any]:
    name = f"{capability}_{kind}"
    return {"capability": str(capability), "name": name, "model": system, "media": str(kind), **QUESTIONS[capability]}


def written(system: str, unit: GenerationRequest) -> str:
    """What a model that sees the box writes, in the form that the system's weights were trained to."""
    x_min, y_min, x_max, y_max = (edge / SIZE[axis % 2] for axis, edge in enumerate(BOX))
    corners = [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max]]
    capability, prompt = unit.request.enrichment.capability, unit.prompt
    if capability is Capability.STRUCTURED_EXTRACTION:
        return '{"kind": "box"}'
    if capability.gives_text:
        return prompt.choices[0] if prompt.choices else "A red box on blue."
    if system == "florence-2":
        places = corners if capability is Capability.SEGMENTATION else [corners[0], corners[2]]
        return "box" + "".join(f"<loc_{int(1000 * number)}>" for point in places for number in point)
    if system == "detector":
        side = max(SIZE)  # the image is put into a square
        return write_detections([Detection(unit.prompt.text, [edge / side for edge in BOX], 0.9)])
    if system == "segmenter":
        mask = np.zeros(SIZE[::-1], dtype=bool)
        mask[int(BOX[1]) : int(BOX[3]), int(BOX[0]) : int(BOX[2])] = True
        counts = encode_mask(mask) if capability is Capability.SEGMENTATION else None
        return write_detections([Detection(prompt.text, [x_min, y_min, x_max, y_max], 0.9, counts)])
    if system == "qwen2-vl" and capability is not Capability.SEGMENTATION:
        first, last = ((int(1000 * x), int(1000 * y)) for x, y in (corners[0], corners[2]))
        return f"<|box_start|>({first[0]},{first[1]}),({last[0]},{last[1]})<|box_end|>"
    if "JSON" not in prompt.text:
        return f"[{x_min:.2f}, {y_min:.2f}, {x_max:.2f}, {y_max:.2f}]"
    scale = 1000 if system in ("qwen2-vl", "chat") else 1
    label = "the red box" if capability is Capability.VISUAL_GROUNDING else "box"
    box = [scale * number for number in (x_min, y_min, x_max, y_max)]
    polygon = [[scale * x, scale * y] for x, y in corners]
    return json.dumps([{"label": label, "bbox_2d" if system == "chat" else "box": box, "polygon": polygon}])


def perfect(system: System) -> Behaviour:
    """A hosted model that sees the box, in a picture, in frames, or in a whole video."""

    def behave(received: Received) -> Say:
        asked = received.texts[-1]
        if "JSON Schema" in asked:
            return Say('{"kind": "box"}')
        if "exactly one of these" in asked:
            return Say(system.choice("yes"))
        if "JSON array" not in asked:
            return Say("A red box on blue.")
        write = system.outline if "outline" in asked or "segmentation mask" in asked else system.native
        label = "the red box" if "the red box" in asked else "box"
        entries = []
        for number, image in enumerate(received.images, start=1):
            entry = {"label": label, **write(seen_box(image), image.size)}
            entry |= {"frame": number} if '"frame"' in asked else {}
            entries.append(entry | ({"track": 1} if '"track"' in asked else {}))
        return Say(system.regions(entries))

    return behave


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    image_with_box(SIZE, BOX).save(folder / "picture.png")
    with av.open(str(folder / "film.mp4"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=4, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p"
        for _ in range(8):
            pixels = np.asarray(image_with_box(SIZE, BOX))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    return folder


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_every_cell_is_served_with_a_valid_row_or_refused(
    system: str, media: Path, tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider: AbstractContextManager[Any] = nullcontext()
    if system in HOSTED:
        provider = HOSTED[system].on_loopback(perfect(HOSTED[system]))
        for variable in HOSTED[system].model.key_variables:
            monkeypatch.setenv(variable, KEY)
    else:
        model_class = systems.system_class(system)
        assert issubclass(model_class, OpenWeightsModel)

        def generate(_self: Any, batch: Sequence[GenerationRequest], _inputs: Any) -> list[Generated]:
            return [Generated(written(system, each)) for each in batch]

        for generator in (ChatGenerator, Florence2Generator, DetectionGenerator, Sam3Generator):
            monkeypatch.setattr(generator, "generate", generate)
    with provider as endpoint:
        if system in HOSTED:
            settings: dict[str, Any] = {"base_url": endpoint.url, "timeout": 20}
        else:
            settings = {"id": str(BUILD[system](tmp_path / "weights")), "device": "cpu"}
        models = {system: settings}
        policy = {"hosted": "allow", "max_quarantine_ratio": 1.0}
        cells = [cell for cell in CELLS if served(system, *cell)]
        for capability, kind in (cell for cell in CELLS if cell not in cells):
            refused = write_spec(
                f"{media}/*", enrichments=[asked(system, capability, kind)], models=models, policy=policy
            )
            with pytest.raises(SpecError, match=r"\(rated 0\)|takes no video|cannot write JSON"):
                resolve_enrichments(read_spec(refused))
        spec = write_spec(
            f"{media}/*", enrichments=[asked(system, *cell) for cell in cells], models=models, policy=policy
        )
        enrich(read_spec(spec))
    catalog = Catalog(uri=read_spec(spec).catalog)
    failed = catalog.scan("quarantine").select("enrichment", "cause", "message", "raw_reply").collect()
    assert failed.is_empty(), failed.rows()
    rows = {row["enrichment"]: row for row in catalog.scan("enrichments").collect().iter_rows(named=True)}
    assert set(rows) == {f"{capability}_{kind}" for capability, kind in cells}
    for capability, kind in cells:
        row = rows[f"{capability}_{kind}"]
        assert (row["system"], row["media_kind"], row["capability"]) == (system, kind, capability)
        if capability.gives_text:
            assert row["text"] in ("A red box on blue.", "yes")
        elif capability is Capability.STRUCTURED_EXTRACTION:
            assert row["extracted"] == '{"kind": "box"}'
        elif capability is Capability.OBJECT_TRACKING:
            (track,) = row["tracks"]
            assert track["label"] == "box" and len(track["points"]) > 1
        else:
            assert row["regions"]
            assert {region["label"] for region in row["regions"]} <= {"box", "the red box"}
            assert all(
                (region["mask"] is not None) == (capability is Capability.SEGMENTATION) for region in row["regions"]
            )


def test_no_cell_is_skipped() -> None:
    counts = {system: sum(served(system, *cell) for cell in CELLS) for system in SYSTEMS}
    assert len(CELLS) == 13
    few = {"florence-2": 12, "llava-next": 5, "instruct-blip": 4, "detector": 4, "segmenter": 6}
    assert counts == {system: few.get(system, 13) for system in SYSTEMS}
