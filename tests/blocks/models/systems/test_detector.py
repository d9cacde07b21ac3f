"""Detectors of every family: what transformers finds, in pixels of the original, alone, in batches and in videos."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from sightflow.blocks.models.replies.detections import read_detections
from sightflow.blocks.models.systems.detector import Detector
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TracksResult
from sightflow.schemas.failure import Cause, ModelError
from sightflow.schemas.geometry import Box
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import VisionReply, VisionRequest
from tests.tiny_models.detectors import BUILD, CLOSED_SET, ZERO_SHOT, build
from tests.tiny_models.families import loaded, noise, noisy_video, request

EACH = pytest.mark.parametrize("family", BUILD)
LABELS = ("red box", "person", "traffic light")
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=LABELS)
LEAST = {"owlv2": 0.3, "d_fine": 0.6, "grounding-dino": 0.05}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: build(tmp_path_factory.mktemp(family), family) for family in BUILD}


def opened(folder: Path, **settings: Any) -> Detector:
    least = LEAST.get(folder.name[:-1], 0.01)
    given = {"threshold": least, "text_threshold": 0.0, "device": "cpu"} | settings
    model = Detector(id=str(folder), **given)
    model.prepare()
    return model


def ask(model: Detector, *asked: VisionRequest) -> list[VisionReply]:
    return model.run(asked)


def regions(reply: VisionReply) -> list[tuple[str, float, Box]]:
    assert isinstance(reply.outcome, RegionsResult), reply.outcome
    return [(region.label, region.score or 0.0, region.box) for region in reply.outcome.regions]


def found_by_the_library(model: Detector, family: str, media: DecodedImage, threshold: float) -> Any:
    """Boxes in pixels and scores, best first, by plain calls of transformers that are told the original's size."""
    processor, sizes = model._processor, [(media.height, media.width)]
    text: Any = {"text": [list(LABELS)]} if family in ZERO_SHOT else {}
    if "grounding" in family:
        text = {"text": "red box. person. traffic light."}
    inputs = processor(images=[media.pixels], return_tensors="pt", **text)
    with torch.inference_mode():
        outputs = loaded(model)(**inputs)
    if family in CLOSED_SET:
        (found,) = processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=sizes)
        names = [loaded(model).config.id2label[int(number)] for number in found["labels"]]
        kept = [k for k, name in enumerate(names) if name in LABELS]
    else:
        (found,) = processor.post_process_grounded_object_detection(outputs, threshold=threshold, target_sizes=sizes)
        kept = list(range(len(found["scores"])))
        names = [] if "grounding" in family else [LABELS[int(k)] for k in dict.__getitem__(found, "labels")]
    rows = [(names[k] if names else "", float(found["scores"][k]), found["boxes"][k].tolist()) for k in kept]
    return sorted(rows, key=lambda row: -row[1])


@EACH
def test_it_finds_what_the_library_finds(family: str, weights: dict[str, Path]) -> None:
    model = opened(weights[family])
    media = noise(80, 80)
    (reply,) = ask(model, request(DETECT, media))
    theirs = found_by_the_library(model, family, media, float(model.threshold or 0))
    ours = regions(reply)
    assert len(ours) == len(theirs) > 1
    for (label, score, box), (name, their_score, edges) in zip(ours, theirs, strict=True):
        assert label in LABELS and name in ("", label)
        assert score == pytest.approx(their_score, abs=1e-5)
        inside = [min(max(edge, 0.0), 80.0) for edge in edges]
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(inside, abs=0.01)


@EACH
def test_a_batch_gives_what_single_calls_give(family: str, weights: dict[str, Path]) -> None:
    model = opened(weights[family], batch_size=8)
    fewer = DETECT.model_copy(update={"labels": ("person",)})
    sizes = [(80, 60), (60, 80), (80, 60), (64, 64), (120, 40)]
    asked = [
        request(DETECT if k in (0, 3, 4) else fewer, noise(*size, seed=k + 20), f"s3://b/{k}")
        for k, size in enumerate(sizes)
    ]
    asked.append(request(DETECT, noise(80, 60, seed=9), "s3://b/9"))
    together = ask(model, *asked)
    assert [reply.uri for reply in together] == [each.uri for each in asked]
    for each, reply in zip(asked, together, strict=True):
        (alone,) = ask(model, each)
        ours, theirs = (read_detections(said.raw_reply or "") for said in (reply, alone))
        assert [found.label for found in ours] == [found.label for found in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.box == pytest.approx(other.box, abs=1e-4)


def red_rectangle(size: tuple[int, int], box: Box) -> DecodedImage:
    image = Image.new("RGB", size, (10, 10, 200))
    image.paste((250, 10, 10), (int(box.x_min), int(box.y_min), int(box.x_max), int(box.y_max)))
    return DecodedImage(image, *size, "0" * 64)


def seen_rectangle(pixels: torch.Tensor) -> list[float]:
    """Where in the image that reaches the network the red is: centre and size, as fractions."""
    height, width = pixels.shape[-2:]
    red = (pixels[0] - pixels[2]) > 0.5 * (pixels[0] - pixels[2]).max()
    ys, xs = torch.nonzero(red, as_tuple=True)
    left, right, top, bottom = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    return [
        float(left + right) / 2 / width, float(top + bottom) / 2 / height,
        float(right - left) / width, float(bottom - top) / height,
    ]  # fmt: skip


@EACH
@pytest.mark.parametrize("size", [(320, 200), (200, 320), (96, 96)])
def test_what_the_network_sees_is_placed_in_the_original(
    family: str, size: tuple[int, int], weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees the rectangle in its own input: whatever the processor did to the image is undone."""
    model = opened(weights[family], threshold=0.5)
    wanted = Box(40, 50, 160, 110) if size != (96, 96) else Box(8, 16, 64, 72)
    network = loaded(model)
    real = network.forward

    def seeing(**inputs: Any) -> Any:
        outputs = real(**inputs)
        boxes = torch.tensor([seen_rectangle(image) for image in inputs["pixel_values"]])
        for scores, places in (("logits", "pred_boxes"), ("decoder_class_logits", "decoder_coord_logits")):
            if getattr(outputs, scores, None) is not None:
                # No box but the first scores: label 0 of a text, `red box` of a closed set, its words of a sentence.
                outputs[scores] = torch.full_like(outputs[scores], -20.0)
                outputs[scores][:, 0, 4 if family in CLOSED_SET else 1 if "grounding" in family else 0] = 5.0
                outputs[places] = outputs[places].clone()
                outputs[places][:, 0] = boxes
        return outputs

    monkeypatch.setattr(network, "forward", seeing)
    (reply,) = ask(model, request(DETECT, red_rectangle(size, wanted)))
    ((label, score, box),) = regions(reply)
    assert label == "red box" and score > 0.99
    shown = model._processor
    shown = getattr(shown, "image_processor", shown).size
    step = max(size) / min(dict(shown).get("height") or 64, 64)  # a pixel that the network sees, in the original
    edges = (box.x_min, box.y_min, box.x_max, box.y_max)
    assert edges == pytest.approx((wanted.x_min, wanted.y_min, wanted.x_max, wanted.y_max), abs=step)


def test_a_box_past_the_edge_is_clipped_and_one_far_outside_costs_the_object(weights: dict[str, Path]) -> None:
    model = opened(weights["rt_detr_v2"])
    asked = request(DETECT, noise(100, 50))
    near = '[{"label": "person", "score": 0.9, "box": [-0.04, 0.1, 0.5, 1.04]}]'
    far = near.replace("-0.04", "-0.06")
    empty = near.replace("1.04", "0.1")
    (prompt,) = model.prompts(DETECT, MediaKind.IMAGE)
    parsed = model.parse(asked, prompt, near)
    assert isinstance(parsed, RegionsResult) and parsed.regions[0].box == Box(0, 5, 50, 50)
    for text in (far, empty, "[1]", "{", '[{"label": "x"}]', '[{"label": "x", "box": ["a", 1, 2, 3]}]'):
        outcome = model._parsed(asked, prompt, SimpleNamespace(truncated=False, text=text))  # type: ignore[arg-type]
        assert getattr(outcome, "cause", None) is Cause.MALFORMED, text


@pytest.mark.parametrize("family", ["owlv2", "d_fine"])
def test_what_is_no_number_is_a_failure_and_costs_no_neighbour(
    family: str, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(weights[family], batch_size=4)
    network = loaded(model)
    real = network.forward

    def broken(**inputs: Any) -> Any:
        outputs = real(**inputs)
        outputs["pred_boxes"] = outputs["pred_boxes"].clone()
        for k, image in enumerate(inputs["pixel_values"]):
            if image.std() < 0.01:  # an image of one colour
                outputs["pred_boxes"][k, 0, 0] = float("nan")
        return outputs

    monkeypatch.setattr(network, "forward", broken)
    grey = DecodedImage(Image.new("RGB", (80, 80), (128,) * 3), 80, 80, "0" * 64)
    monkeypatch.setattr(
        model._processor if family == "d_fine" else model._processor.image_processor, "do_normalize", False
    )
    replies = ask(model, request(DETECT, noise(80, 80)), request(DETECT, grey), request(DETECT, noise(80, 80, seed=2)))
    assert [reply.failure.cause if reply.failure else None for reply in replies] == [None, Cause.MODEL, None]
    assert "float32" in replies[1].failure.message  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["grounding-dino", "rf_detr"])
def test_tracks_are_linked_from_what_is_found_in_the_frames(family: str, weights: dict[str, Path]) -> None:
    model = opened(weights[family], threshold=0.0, nms_threshold=0.3)
    track = Enrichment(capability=Capability.OBJECT_TRACKING, labels=LABELS)
    film = noisy_video(4)
    still = replace(film, frames=film.frames[:1] * 4)  # random weights find the same there, and nowhere else
    (reply,) = ask(model, request(track, still))
    assert isinstance(reply.outcome, TracksResult) and reply.outcome.tracks
    assert all(point.box.x_min >= 0 for each in reply.outcome.tracks for point in each.points)
    (reply,) = ask(model, request(DETECT, noisy_video(3)))
    assert isinstance(reply.outcome, RegionsResult)
    assert {region.frame_index for region in reply.outcome.regions} == {0, 10, 20}


def test_of_boxes_that_overlap_the_better_one_stays_if_it_is_asked_for(weights: dict[str, Path]) -> None:
    media = noise(80, 80)
    (all_,) = ask(opened(weights["owlv2"]), request(DETECT, media))
    (few,) = ask(opened(weights["owlv2"], nms_threshold=0.0), request(DETECT, media))
    assert 0 < len(regions(few)) < len(regions(all_))
    kept = regions(few)
    assert all(a.iou(b) == 0 for i, (name, _, a) in enumerate(kept) for other, _, b in kept[:i] if name == other)


def test_labels_of_a_closed_set_are_its_own(weights: dict[str, Path]) -> None:
    model = opened(weights["d_fine"])
    for written in ("Traffic-Light", "traffic_light", "TRAFFIC  LIGHT"):
        asked = DETECT.model_copy(update={"labels": (written,)})
        assert model.unsupported_reason(asked, MediaKind.IMAGE) is None
        (reply,) = ask(model, request(asked, noise(80, 80)))
        assert {label for label, _, _ in regions(reply)} <= {written}
    wrong = DETECT.model_copy(update={"labels": ("person", "traffic lihgt")})
    reason = model.unsupported_reason(wrong, MediaKind.IMAGE) or ""
    assert "no label 'traffic lihgt'; did you mean traffic light?" in reason and "n/a" not in reason.lower()
    (reply,) = ask(model, request(wrong, noise(80, 80)))
    assert reply.failure and reply.failure.cause is Cause.UNSUPPORTED and "did you mean" in reply.failure.message
    everything = Enrichment(capability=Capability.OBJECT_DETECTION)
    (reply,) = ask(model, request(everything, noise(80, 80)))
    assert {label for label, _, _ in regions(reply)} <= {"person", "traffic light", "dog", "red box"}
    grounding = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("person",))
    assert "no phrases" in (model.unsupported_reason(grounding, MediaKind.IMAGE) or "")


@pytest.mark.parametrize("family", ZERO_SHOT)
def test_a_zero_shot_detector_takes_any_phrase_and_needs_one(family: str, weights: dict[str, Path]) -> None:
    model = opened(weights[family])
    phrases = ("A red box?", "st. person", "dog")
    grounding = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=phrases)
    assert model.unsupported_reason(grounding, MediaKind.IMAGE) is None
    (reply,) = ask(model, request(grounding, noise(80, 80)))
    assert {label for label, _, _ in regions(reply)} <= set(phrases)
    everything = Enrichment(capability=Capability.OBJECT_DETECTION)
    assert "give it `labels`" in (model.unsupported_reason(everything, MediaKind.IMAGE) or "")
    long = grounding.model_copy(update={"phrases": ("dog " * 300,)})
    (reply,) = ask(model, request(long, noise(80, 80)))
    assert reply.failure and reply.failure.cause is Cause.TOO_LARGE


def test_more_labels_than_fit_a_sentence_are_asked_for_in_several(weights: dict[str, Path]) -> None:
    model = opened(weights["grounding-dino"], threshold=0.0)
    many = tuple(f"{'person ' * (k + 1)}dog".strip() for k in range(40))
    asked = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=many)
    (reply,) = ask(model, request(asked, noise(80, 80)))
    assert len(regions(reply)) > 30, "more than one pass of 30 boxes"


def test_settings_and_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only `local` can run it"):
        Detector(engine="endpoint", endpoint_url="http://localhost:1/v1")
    build(tmp_path, "rf_detr")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "rf_detr"', '"model_type": "bert"'))
    model = Detector(id=str(tmp_path))
    assert "holds weights of 'bert'; known: grounding-dino" in (model.unsupported_reason(DETECT, MediaKind.IMAGE) or "")
    with pytest.raises(ModelError, match="weights of 'bert'"):
        model.prepare()


def test_a_threshold_is_part_of_the_recipe(weights: dict[str, Path]) -> None:
    one, same, other = (Detector(id=str(weights["d_fine"]), threshold=t) for t in (None, 0.5, 0.6))
    recipes = [model.recipe(DETECT, MediaKind.IMAGE) for model in (one, same, other)]
    assert recipes[0] == recipes[1] != recipes[2]
