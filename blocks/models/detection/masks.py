"""Segmenters on loaded weights: SAM 3, which finds what a text names, and SAM 2, which cuts out what is in a box.

Masks are brought to the size of the original one by one: all of an image at once would be gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightflow.blocks.models.contract import Generated, GenerationRequest, LoadedWeights, ReplyError
from sightflow.blocks.models.open_weights_model import image_of
from sightflow.blocks.models.replies.detections import Detection, read_detections, write_detections
from sightflow.schemas.capability import Capability
from sightflow.schemas.failure import Cause
from sightflow.schemas.masks import Bitmap, encode_mask

LONGEST_TEXT = 32
"""Tokens of a text that SAM 3 reads."""


@dataclass(frozen=True)
class Least:
    """`score`: the least of a region, 0 to 1. `mask`: the least probability of a pixel of it."""

    score: float
    mask: float


@dataclass(frozen=True)
class Batch:
    """What the processor made of a batch: each image once, and for each request the place of its image."""

    inputs: Any
    places: list[int]
    texts: Any = None


class Sam3Generator:
    """Each request is about one text; the image is encoded once for all of them. `model`: a `Sam3Model`."""

    def __init__(self, weights: LoadedWeights, model: Any, least: Least) -> None:
        self.weights, self._model, self._least = weights, model, least

    def preprocess(self, batch: Sequence[GenerationRequest]) -> Batch:
        images, places = distinct_images(batch)
        processor = self.weights.processor
        inputs = processor.image_processor(images=images, return_tensors="pt")
        texts = encoded_texts(processor.tokenizer, [each.prompt.text for each in batch])
        return Batch(inputs, places, texts)

    def generate(self, batch: Sequence[GenerationRequest], inputs: Batch) -> list[Generated]:
        import torch

        model = self._model
        vision = model.get_vision_features(inputs.inputs["pixel_values"].to(model.device, model.dtype))
        place = torch.tensor(inputs.places, device=model.device)
        shared = type(vision)(
            **{name: _chosen(value, place) for name, value in vision.items() if name in _OF_VISION},
        )
        texts = {name: value.to(model.device) for name, value in inputs.texts.items()}
        outputs = model(vision_embeds=shared, **texts)
        refuse_what_is_no_number(outputs.pred_logits, outputs.pred_boxes, outputs.pred_masks)
        images = self.weights.processor.image_processor  # that of a processor for videos, too
        found = images.post_process_object_detection(outputs, threshold=self._least.score)
        scores = outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()
        replies = []
        for index, each in enumerate(batch):
            boxes, best = found[index]["boxes"].tolist(), found[index]["scores"].tolist()
            masks: list[Any] = [None] * len(best)
            if each.request.enrichment.capability is Capability.SEGMENTATION:
                masks = list(outputs.pred_masks[index][scores[index] > self._least.score].sigmoid())
            replies.append(self._reply(each, boxes, best, masks))
        return replies

    def _reply(
        self, each: GenerationRequest, boxes: list[list[float]], scores: list[float], masks: list[Any]
    ) -> Generated:
        detections = []
        for box, score, mask in zip(boxes, scores, masks, strict=True):
            counts = None
            if mask is not None:
                bitmap = at_size(mask, each.request.media.width, each.request.media.height) > self._least.mask
                if not bitmap.any():
                    continue  # a mask without a pixel is no region
                counts = encode_mask(bitmap)
            detections.append(Detection(each.prompt.subject or each.prompt.text, box, score, counts))
        return Generated(write_detections(sorted(detections, key=lambda found: -(found.score or 0.0))))


_OF_VISION = ("last_hidden_state", "pooler_output", "fpn_hidden_states", "fpn_position_encoding")


class Sam2Generator:
    """Each request brings the boxes of its image; each is cut out by one mask, whose box is that of the region.

    `model`: a `Sam2Model`.
    """

    def __init__(self, weights: LoadedWeights, model: Any, least: Least) -> None:
        self.weights, self._model, self._least = weights, model, least

    def preprocess(self, batch: Sequence[GenerationRequest]) -> Batch:
        images, places = distinct_images(batch)
        return Batch(self.weights.processor.image_processor(images=images, return_tensors="pt"), places)

    def generate(self, batch: Sequence[GenerationRequest], inputs: Batch) -> list[Generated]:
        model, processor = self._model, self.weights.processor
        embedded = model.get_image_embeddings(inputs.inputs["pixel_values"].to(model.device, model.dtype))
        replies = []
        for each, place in zip(batch, inputs.places, strict=True):
            asked = read_detections(each.prompt.text)
            width, height = image_of(each).size
            corners = [[in_pixels(found.box, width, height) for found in asked]]
            boxes = processor(input_boxes=corners, original_sizes=[[height, width]], return_tensors="pt")["input_boxes"]
            outputs = model(
                image_embeddings=[level[place : place + 1] for level in embedded],
                input_boxes=boxes.to(model.device, model.dtype),
                multimask_output=False,
            )
            refuse_what_is_no_number(outputs.pred_masks)
            detections = []
            for found, mask in zip(asked, outputs.pred_masks[0, :, 0], strict=True):
                bitmap = at_size(mask, each.request.media.width, each.request.media.height) > logit(self._least.mask)
                if bitmap.any():
                    detections.append(Detection(found.label, box_of(bitmap), found.score, encode_mask(bitmap)))
            replies.append(Generated(write_detections(detections)))
        return replies


def distinct_images(batch: Sequence[GenerationRequest]) -> tuple[list[Any], list[int]]:
    """The images of a batch, each once, and for each request the place of its own among them."""
    at: dict[int, int] = {}
    images: list[Any] = []
    places: list[int] = []
    for each in batch:
        place = at.setdefault(id(each.request.media), len(images))
        if place == len(images):
            images.append(image_of(each))
        places.append(place)
    return images, places


def encoded_texts(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Texts as SAM 3's processor encodes them. Raises ReplyError with cause `too_large` for one that is cut off."""
    for text in texts:
        tokens = len(tokenizer(text)["input_ids"])
        if tokens > LONGEST_TEXT:
            raise ReplyError(f"the label {text!r} has {tokens} tokens, and the model reads 32", Cause.TOO_LARGE)
    return tokenizer(list(texts), return_tensors="pt", padding="max_length", max_length=LONGEST_TEXT)


def at_size(mask: Any, width: int, height: int) -> Any:
    """A mask of numbers, (h, w), at another size: (height, width), as transformers resizes them."""
    import torch

    large = torch.nn.functional.interpolate(
        mask[None, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    return large[0, 0].cpu().numpy()


def box_of(bitmap: Bitmap) -> tuple[float, float, float, float]:
    """The box around a mask that is not empty, in fractions of its sides."""
    height, width = bitmap.shape
    ys, xs = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    return xs[0] / width, ys[0] / height, (xs[-1] + 1) / width, (ys[-1] + 1) / height


def logit(probability: float) -> float:
    """The number of which the sigmoid is a probability."""
    return float(np.log(probability / (1 - probability)))


def refuse_what_is_no_number(*numbers: Any) -> None:
    """Raise FloatingPointError if a network gave NaN, of which no threshold would tell."""
    if any(bool(each.isnan().any()) for each in numbers):
        raise FloatingPointError("the network gave what is no number (NaN); try dtype: float32")


def in_pixels(box: Sequence[float], width: int, height: int) -> list[float]:
    """A box in fractions of the sides of an image, in its pixels."""
    return [box[0] * width, box[1] * height, box[2] * width, box[3] * height]


def _chosen(value: Any, place: Any) -> Any:
    """A tensor, or each of several, with its images chosen by their place."""
    if isinstance(value, list | tuple):
        return type(value)(each.index_select(0, place) for each in value)
    return value.index_select(0, place)
