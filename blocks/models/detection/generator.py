"""Detectors on loaded weights: images of one size and one question go through the network together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sightflow.blocks.models.contract import Generated, GenerationRequest, LoadedWeights, ReplyError
from sightflow.blocks.models.detection.families import FAMILIES, Found, Queries, Thresholds, in_passes, read_closed_set
from sightflow.blocks.models.detection.labels import asked_labels, known_labels, unknown_label
from sightflow.blocks.models.open_weights_model import image_of
from sightflow.blocks.models.region_finder import RegionFinder
from sightflow.blocks.models.replies.detections import Detection, write_detections
from sightflow.schemas.failure import Cause


@dataclass(frozen=True)
class Pass:
    """What goes through the network at once: the requests it is about, by index, and the processor's inputs."""

    indices: list[int]
    inputs: Any
    queries: Queries | None


class DetectionGenerator:
    """A detector of one of the families. Each image is seen as it is by itself: none is padded to another's size."""

    def __init__(self, weights: LoadedWeights, family: str, least: Thresholds) -> None:
        self.weights, self._family, self._least = weights, family, least
        self._known = known_labels(weights.model.config.to_dict())

    def preprocess(self, batch: Sequence[GenerationRequest]) -> list[Pass]:
        """The passes that a batch needs."""
        processor = self.weights.processor
        groups: dict[tuple[Any, tuple[str, ...]], list[int]] = {}
        for index, each in enumerate(batch):
            wanted = RegionFinder.wanted(each.request.enrichment)
            size = None if has_one_size(processor) else image_of(each).size
            groups.setdefault((size, wanted if FAMILIES[self._family].zero_shot else ()), []).append(index)
        passes: list[Pass] = []
        for (_, wanted), indices in groups.items():
            images = [image_of(batch[index]) for index in indices]
            if FAMILIES[self._family].zero_shot:
                if not wanted:
                    raise ReplyError("the model finds what it is asked for; give it labels", Cause.UNSUPPORTED)
                for queries in in_passes(self._family, processor, self.weights.model.config, wanted):
                    passes.append(Pass(indices, queries.inputs(images), queries))
            else:
                passes.append(Pass(indices, processor(images=images, return_tensors="pt"), None))
        return passes

    def generate(self, batch: Sequence[GenerationRequest], inputs: list[Pass]) -> list[Generated]:
        detections: list[list[Detection]] = [[] for _ in batch]
        for each in inputs:
            for index, found in zip(each.indices, self._found(each), strict=True):
                labels = self._labels(batch[index], each.queries)
                kept = suppressed(found, self._least.nms)
                detections[index] += [
                    Detection(labels[number], box, score) for box, score, number in kept if number in labels
                ]
        return [Generated(write_detections(sorted(each, key=_by_score))) for each in detections]

    def _found(self, each: Pass) -> list[Found]:
        import torch

        model = self.weights.model
        outputs = model(**each.inputs.to(model.device, model.dtype))
        for name in ("logits", "pred_boxes", "decoder_class_logits", "decoder_coord_logits"):
            numbers = getattr(outputs, name, None)
            if numbers is not None and bool(torch.isnan(numbers).any()):
                raise FloatingPointError("the network gave what is no number (NaN); try dtype: float32")
        if each.queries is None:
            return read_closed_set(outputs, self.weights.processor, self._least)
        return each.queries.read(outputs, each.inputs, self._least)

    def _labels(self, each: GenerationRequest, queries: Queries | None) -> dict[int, str]:
        if queries is not None:
            return dict(enumerate(queries.labels))
        wanted = RegionFinder.wanted(each.request.enrichment)
        if problem := unknown_label(self._known, wanted):
            raise ReplyError(f"the model {problem}", Cause.UNSUPPORTED)
        return asked_labels(self._known, wanted)


def has_one_size(processor: Any) -> bool:
    """Whether a processor makes any image equally large."""
    images = getattr(processor, "image_processor", processor)
    size = dict(images.size)
    return bool(images.do_resize and size.get("height") and size.get("width"))


def suppressed(found: Found, nms: float | None) -> list[tuple[list[float], float, int]]:
    """Box, score and label of what was found in an image, less what overlaps a better one of its label too much."""
    boxes, scores, labels = found
    if nms is None or not labels:
        return list(zip(boxes.tolist(), scores.tolist(), labels, strict=True))
    import torch
    from torchvision.ops import batched_nms  # type: ignore[import-untyped]

    kept = batched_nms(boxes.float(), scores.float(), torch.tensor(labels, device=boxes.device), nms).tolist()
    return [(boxes[k].tolist(), float(scores[k]), labels[k]) for k in kept]


def _by_score(detection: Detection) -> float:
    return -(detection.score or 0.0)
