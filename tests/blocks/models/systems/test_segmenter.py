"""SAM 3 by text and SAM 2 by boxes: the masks that transformers gives, in pixels of the original."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam2Model, Sam3Model, Sam3Processor

from sightflow.blocks.models.registry import open_model, settings_problems
from sightflow.blocks.models.systems.segmenter import Segmenter
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, TracksResult
from sightflow.schemas.failure import Cause, SpecError
from sightflow.schemas.geometry import Box
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.spec_reader import read_spec
from sightflow.schemas.vision import VisionReply
from tests.blocks.models.systems.test_detector import red_rectangle
from tests.tiny_models import detectors, segmenters
from tests.tiny_models.families import blank, loaded, noise, noisy_video, request

LABELS = ("red box", "person")
SEGMENT = Enrichment(capability=Capability.SEGMENTATION, labels=LABELS)
EACH = pytest.mark.parametrize("family", ["sam3", "sam2"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    built = {family: segmenters.build(tmp_path_factory.mktemp(family), family) for family in segmenters.BUILD}
    return built | {"d_fine": detectors.build(tmp_path_factory.mktemp("d_fine"), "d_fine")}


def opened(folders: dict[str, Path], family: str, least: float = 0.6, **settings: Any) -> Segmenter:
    given: dict[str, Any] = {"id": str(folders[family]), "device": "cpu", "threshold": 0.02}
    if family.startswith("sam2"):
        given["boxes_from"] = {"system": "detector", "id": str(folders["d_fine"]), "device": "cpu", "threshold": least}
    model = open_model("segmenter", given | settings)
    assert isinstance(model, Segmenter)
    model.prepare()
    return model


def regions(reply: VisionReply) -> tuple[Region, ...]:
    assert isinstance(reply.outcome, RegionsResult), reply.outcome
    return reply.outcome.regions


def bitmap(region: Region, media: DecodedImage) -> Any:
    return decode_mask(region.mask or "", media.width, media.height)


@pytest.mark.parametrize("family", ["sam3", "sam3_video"])
def test_sam_3_gives_the_masks_that_the_library_gives(family: str, folders: dict[str, Path]) -> None:
    model, media = opened(folders, family), noise(90, 60)
    network, processor = Sam3Model.from_pretrained(folders[family]), Sam3Processor.from_pretrained(folders[family])
    (reply,) = model.run([request(SEGMENT, media)])
    theirs: list[tuple[str, float, Any, Any]] = []
    for label in LABELS:
        inputs = processor(images=[media.pixels], text=[label], return_tensors="pt")
        sizes = inputs.pop("original_sizes").tolist()
        with torch.inference_mode():
            outputs = network(**inputs)
        (found,) = processor.post_process_instance_segmentation(outputs, threshold=0.02, target_sizes=sizes)
        rows = zip(found["scores"].tolist(), found["boxes"].tolist(), found["masks"].numpy(), strict=True)
        theirs += [(label, *row) for row in rows if row[2].any()]
    scores = [(region.label, -(region.score or 0.0)) for region in regions(reply)]
    assert scores == sorted(scores, key=lambda each: (LABELS.index(each[0]), each[1])), "the best of a label is first"
    # Some scores are equal but for their last digits.
    ours = sorted(regions(reply), key=lambda region: (region.label, region.box.x_min))
    theirs.sort(key=lambda row: (row[0], max(row[2][0], 0.0)))
    assert len(ours) == len(theirs) > 2
    for region, (label, score, edges, mask) in zip(ours, theirs, strict=True):
        assert (region.label, region.score) == (label, pytest.approx(score, abs=1e-5))
        inside = np.clip(edges, 0, [90, 60, 90, 60])
        box = region.box
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(tuple(inside), abs=0.01)
        assert (bitmap(region, media) != mask.astype(bool)).mean() < 0.001


@pytest.mark.parametrize("family", ["sam2", "sam2_video"])
def test_sam_2_gives_the_masks_that_the_library_gives(family: str, folders: dict[str, Path]) -> None:
    model, media = opened(folders, family), noise(90, 60)
    (reply,) = model.run([request(SEGMENT, media)])
    assert model._source is not None
    question = Enrichment(capability=Capability.OBJECT_DETECTION, labels=LABELS)
    (source,) = model._source.run([request(question, media)])
    boxes = [[b.x_min, b.y_min, b.x_max, b.y_max] for b in (region.box for region in regions(source))]
    inputs = model._processor(images=[media.pixels], input_boxes=[boxes], return_tensors="pt")
    sizes = inputs.pop("original_sizes")
    with torch.inference_mode():
        outputs = Sam2Model.from_pretrained(folders[family])(**inputs, multimask_output=False)
    (masks,) = model._processor.post_process_masks(outputs.pred_masks, sizes)
    kept = [k for k in range(len(boxes)) if masks[k, 0].any()]
    ours = regions(reply)
    assert len(ours) == len(kept) > 1
    for region, k in zip(ours, kept, strict=True):
        theirs = masks[k, 0].numpy()
        assert (region.label, region.score) == (regions(source)[k].label, regions(source)[k].score)
        assert (bitmap(region, media) != theirs).mean() < 0.001
        rows, columns = np.flatnonzero(theirs.any(1)), np.flatnonzero(theirs.any(0))
        around = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        box = region.box
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == pytest.approx(around, abs=1)


@EACH
def test_a_batch_gives_what_single_calls_give(family: str, folders: dict[str, Path]) -> None:
    model = opened(folders, family, batch_size=8)
    one = SEGMENT.model_copy(update={"labels": ("person",)})
    asked = [
        request(one if k % 2 else SEGMENT, noise(*size, seed=k), f"s3://b/{k}")
        for k, size in enumerate([(90, 60), (60, 90), (64, 64)])
    ]
    for each, reply in zip(asked, model.run(asked), strict=True):
        (alone,) = model.run([each])
        assert reply.uri == each.uri and len(regions(reply)) == len(regions(alone))
        for ours, theirs in zip(regions(reply), regions(alone), strict=True):
            assert ours.label == theirs.label and ours.score == pytest.approx(theirs.score, abs=1e-4)
            assert ours.box.iou(theirs.box) > 0.98
            assert (bitmap(ours, each.media) != bitmap(theirs, each.media)).mean() < 0.002  # type: ignore[arg-type]


@EACH
@pytest.mark.parametrize("size", [(320, 200), (200, 320)])
def test_what_the_network_sees_is_cut_out_of_the_original(
    family: str, size: tuple[int, int], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that sees the rectangle in its own input: the mask lies over it in the original."""
    wanted = Box(40, 50, 160, 110)
    model = opened(folders, family, least=0.0)
    network = loaded(model)
    real, seen = network.forward, []
    encode = "get_vision_features" if family == "sam3" else "get_image_embeddings"
    real_encode = getattr(network, encode)

    def watching(pixels: torch.Tensor, *more: Any, **named: Any) -> Any:
        seen[:] = list(pixels)
        return real_encode(pixels, *more, **named)

    def seeing(**inputs: Any) -> Any:
        outputs = real(**inputs)
        red = torch.stack([image[0] - image[2] for image in seen])
        side = outputs.pred_masks.shape[-1]
        small = torch.nn.functional.interpolate(red[:, None], size=(side, side), mode="area")
        masks = outputs.pred_masks
        outputs["pred_masks"] = (10 * small[0, 0]).expand(masks.shape)
        return outputs

    monkeypatch.setattr(network, encode, watching)
    monkeypatch.setattr(network, "forward", seeing)
    media = red_rectangle(size, wanted)
    anything = ("red box", "person", "dog", "traffic light")
    (reply,) = model.run([request(SEGMENT.model_copy(update={"labels": anything}), media)])
    truth = np.zeros((size[1], size[0]), dtype=bool)
    truth[50:110, 40:160] = True
    assert regions(reply)
    for region in regions(reply):
        mask = bitmap(region, media)
        assert (mask & truth).sum() / (mask | truth).sum() > 0.75, "16 pixels a side are all that it gives"
        if family != "sam3":
            assert region.box.iou(wanted) > 0.75


def test_a_mask_without_a_pixel_is_no_region(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("sam3", "sam2"):
        model = opened(folders, family)
        network = loaded(model)
        real = network.forward

        def blind(real: Any = real, **inputs: Any) -> Any:
            outputs = real(**inputs)
            outputs["pred_masks"] = torch.full_like(outputs["pred_masks"], -9.0)
            return outputs

        monkeypatch.setattr(network, "forward", blind)
        (reply,) = model.run([request(SEGMENT, noise(90, 60))])
        assert regions(reply) == ()


@EACH
def test_videos_are_looked_at_frame_by_frame(family: str, folders: dict[str, Path]) -> None:
    model = opened(folders, family)
    (cut,) = model.run([request(SEGMENT, noisy_video(3))])
    assert {region.frame_index for region in regions(cut)} <= {0, 10, 20} and all(r.mask for r in regions(cut))
    track = Enrichment(capability=Capability.OBJECT_TRACKING, labels=LABELS)
    (reply,) = model.run([request(track, noisy_video(3))])
    assert isinstance(reply.outcome, TracksResult) and reply.outcome.tracks


def test_boxes_alone_come_without_masks(folders: dict[str, Path]) -> None:
    model = opened(folders, "sam3")
    for asked in (
        Enrichment(capability=Capability.OBJECT_DETECTION, labels=LABELS),
        Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=LABELS),
    ):
        (reply,) = model.run([request(asked, noise(90, 60))])
        assert regions(reply) and all(region.mask is None for region in regions(reply))


def test_what_the_other_model_fails_at_fails_and_what_it_does_not_find_is_empty(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(folders, "sam2")
    assert model._source is not None
    network = loaded(model._source)  # type: ignore[arg-type]
    real = network.forward

    def broken(**inputs: Any) -> Any:
        outputs = real(**inputs)
        outputs["logits"] = outputs["logits"].clone()
        outputs["logits"][:] = -20.0 if inputs["pixel_values"].std() < 0.01 else float("nan")
        return outputs

    monkeypatch.setattr(network, "forward", broken)
    noisy, dark = (request(SEGMENT, media) for media in (noise(90, 60), blank(90, 60)))
    (fails,), (finds_nothing,) = model.run([noisy]), model.run([dark])
    assert fails.failure and fails.failure.cause is Cause.MODEL and "boxes_from: " in fails.failure.message
    assert regions(finds_nothing) == ()


def test_what_does_not_go_together_is_said_before_anything_is_asked(folders: dict[str, Path]) -> None:
    sam2, alone = opened(folders, "sam2"), open_model("segmenter", {"id": str(folders["sam2"])})
    assert "boxes_from: NAME" in (alone.unsupported_reason(SEGMENT, MediaKind.IMAGE) or "")
    wrong = SEGMENT.model_copy(update={"labels": ("persn",)})
    assert "did you mean person" in (sam2.unsupported_reason(wrong, MediaKind.IMAGE) or "")
    detect = Enrichment(capability=Capability.OBJECT_DETECTION, labels=LABELS)
    assert "ask the model that it takes them from" in (sam2.unsupported_reason(detect, MediaKind.IMAGE) or "")
    sam3 = opened(folders, "sam3", boxes_from={"system": "detector", "id": str(folders["d_fine"])})
    assert "leave it out" in (sam3.unsupported_reason(SEGMENT, MediaKind.IMAGE) or "")
    long = SEGMENT.model_copy(update={"labels": ("dog " * 40,)})
    (reply,) = opened(folders, "sam3").run([request(long, noise(90, 60))])
    assert reply.failure and reply.failure.cause is Cause.TOO_LARGE
    with pytest.raises(SpecError, match="only models that run here"):
        open_model("segmenter", {"boxes_from": {"system": "gpt-4o"}})
    ((key, problem),) = settings_problems("segmenter", {"boxes_from": {"system": "detector", "treshold": 1}})
    assert key == "boxes_from" and "did you mean threshold" in problem


def test_a_spec_names_the_model_whose_boxes_are_cut_out(folders: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    models = (
        f"found: {{system: detector, id: {folders['d_fine']}}}\n  cut: {{system: segmenter, id: {folders['sam2']}, "
    )
    asked = "[{capability: segmentation, labels: [person], model: cut}]"
    path.write_text(f"source: media\ncatalog: catalog\nenrichments: {asked}\nmodels:\n  {models}boxes_from: found}}\n")
    spec = read_spec(path)
    model = open_model(*spec.model_entry("cut"))
    assert model.unsupported_reason(spec.enrichments[0], MediaKind.IMAGE) is None
    path.write_text(path.read_text().replace("system: detector, ", "system: detector, threshold: 0.9, "))
    other = open_model(*read_spec(path).model_entry("cut"))
    one = spec.enrichments[0]
    assert model.recipe(one, MediaKind.IMAGE) != other.recipe(one, MediaKind.IMAGE), "other boxes, other masks"
