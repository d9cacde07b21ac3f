"""Florence-2 (arXiv:2311.06242): one small encoder-decoder, many vision tasks by task token."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from sightflow.blocks.models.contract import Generated, GenerationRequest, LoadedWeights, Prompt, ReplyError
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.polygon_masks import region_if_any
from sightflow.blocks.models.replies.text import read_text
from sightflow.blocks.models.reply_forms import Grammar, one_of
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, Result
from sightflow.schemas.geometry import PER_MILLE
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, Usage, VisionRequest

_CAPTION_TASKS = {
    "brief": "<CAPTION>",
    "detailed": "<DETAILED_CAPTION>",
    "paragraph": "<MORE_DETAILED_CAPTION>",
}
_PADDING = re.compile(r"<s>|</s>|<pad>")
_LABELLED = re.compile(r"([^<]*)((?:<loc_\d+>|<poly>|</poly>|<sep>)+)")
_BIN = re.compile(r"<loc_(\d+)>")
_START = ("begin", r"<s>"), ("bin", r"<loc_\d+>")
_LABEL = "LABEL: /[^<]{1,200}/"
_BOXES = Grammar(f"start: begin? (LABEL (bin bin bin bin)+)*\n{_LABEL}", _START)
_BOXES_OF_A_SUBJECT = Grammar(f"start: begin? (LABEL? (bin bin bin bin)+)*\n{_LABEL}", _START)
_POLYGONS = Grammar(
    "start: begin? (LABEL? (places | (open places close)+))*\n"
    "places: ring (apart ring)*\n"
    f"ring: bin bin bin bin bin bin (bin bin)*\n{_LABEL}",
    (*_START, ("open", r"<poly>"), ("close", r"</poly>"), ("apart", r"<sep>")),
)


class Florence2(OpenWeightsModel):
    """Florence-2: captions, detection, grounding and segmentation by task token.

    It sees the whole image squeezed into a square and names places in 1000 bins a side; a coordinate is
    the centre of its bin. It gives no scores. Question answering is not one of its pretrained tasks: the
    `<VQA>` form is that of its fine-tuned checkpoints, and the router prefers other systems for it.
    """

    _block_type_name = "Sightflow Florence-2"
    _block_type_slug = "sightflow-florence-2"

    rating = Rating(
        system="florence-2",
        capabilities=stars(
            captioning=5,
            answering=5,
            reasoning=4,
            grounding=5,
            detection=4,
            tracking=2,
            video_captioning=2,
            extraction=0,  # it follows no instructions
        ),
        deployment="easy",
        getting_started="fast",
        weights="open",
        used_by="transformers",
        community="active",
        strength="one model, many vision tasks",
    )
    box_format = PER_MILLE
    media_kinds = frozenset(MediaKind)
    supports_custom_prompt: ClassVar[bool] = False
    model_class = "Florence2ForConditionalGeneration"
    memory_gib = 1.5
    squeezes_to_square = True
    default = ModelRef("florence-community/Florence-2-base-ft", revision="main", licence="mit", commercial_use="yes")

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        limit = self.max_new_tokens
        match enrichment.capability:
            case Capability.IMAGE_CAPTIONING | Capability.VIDEO_CAPTIONING:
                return (Prompt(_CAPTION_TASKS[enrichment.detail], max_new_tokens=limit),)
            case Capability.VISUAL_QUESTION_ANSWERING | Capability.VISUAL_REASONING:
                question = f"<VQA>{enrichment.question}"
                return (Prompt(question, reply_form=one_of(enrichment.choices), max_new_tokens=limit),)
            case Capability.VISUAL_GROUNDING:
                task, subjects = "<CAPTION_TO_PHRASE_GROUNDING>", enrichment.phrases
            case Capability.SEGMENTATION:
                task, subjects = "<REFERRING_EXPRESSION_SEGMENTATION>", enrichment.labels
            case _ if enrichment.labels:
                task, subjects = "<OPEN_VOCABULARY_DETECTION>", enrichment.labels
            case _:
                return (Prompt("<OD>", reply_form=_BOXES, max_new_tokens=limit),)
        form = _POLYGONS if enrichment.capability is Capability.SEGMENTATION else _BOXES_OF_A_SUBJECT
        return tuple(Prompt(task + s, subject=s, reply_form=form, max_new_tokens=limit) for s in subjects)

    def batch_generator(self, weights: LoadedWeights) -> Florence2Generator:
        return Florence2Generator(weights)

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        if request.enrichment.capability.gives_text:
            return read_text(text, request.enrichment, prompt)
        regions: list[Region] = []
        for label, locations in _labelled_locations(text):
            name = prompt.subject or label
            if not name:
                raise ReplyError(f"a place without a label: {locations[:80]!r}")
            if request.enrichment.capability is Capability.SEGMENTATION:
                regions += self._masks(request, name, locations)
            else:
                regions += self._boxes(request, name, locations)
        return RegionsResult(tuple(regions))

    def _boxes(self, request: VisionRequest, label: str, locations: str) -> list[Region]:
        bins = [float(b) + 0.5 for b in _BIN.findall(locations)]
        if len(bins) % 4 or "poly" in locations or "sep" in locations:
            raise ReplyError(f"{len(bins)} numbers are not boxes of 4: {locations[:80]!r}")
        transform = self.image_transform(request)
        boxes = [self.box_format.to_pixels(bins[k : k + 4], transform) for k in range(0, len(bins), 4)]
        return [Region(label, box) for box in boxes]

    def _masks(self, request: VisionRequest, label: str, locations: str) -> list[Region]:
        transform, regions = self.image_transform(request), []
        for instance in re.split(r"</?poly>", locations):
            polygons = []
            for ring in filter(None, instance.split("<sep>")):
                bins = [float(b) + 0.5 for b in _BIN.findall(ring)]
                if len(bins) % 2 or len(bins) < 6:
                    raise ReplyError(f"{len(bins)} numbers are not a polygon: {ring[:80]!r}")
                points = [self.box_format.point_to_pixels(bins[k : k + 2], transform) for k in range(0, len(bins), 2)]
                polygons.append([number for point in points for number in point])
            if (region := region_if_any(label, polygons, transform.width, transform.height)) is not None:
                regions.append(region)
        return regions


class Florence2Generator:
    """Task tokens instead of a chat template; each image of a batch is preprocessed and encoded once."""

    def __init__(self, weights: LoadedWeights) -> None:
        self.weights = weights

    def preprocess(self, batch: Sequence[GenerationRequest]) -> tuple[Any, list[int]]:
        """The inputs of a batch, each image once, and for each prompt which of the images it is about."""
        images, indices = _distinct_images(batch)
        processor = copy.copy(self.weights.processor)
        processor.image_processor = _EachOnce(processor.image_processor)
        inputs = processor(
            text=[each.prompt.text for each in batch],
            images=[images[index] for index in indices],
            return_tensors="pt",
            padding=True,
        )
        return inputs, indices

    def generate(self, batch: Sequence[GenerationRequest], inputs: tuple[Any, list[int]]) -> list[Generated]:
        import torch

        (encodings, indices), model = inputs, self.weights.model
        lengths = encodings["attention_mask"].sum(dim=1).tolist()
        limits = self.weights.reply_limits(batch, lengths)
        encodings = encodings.to(model.device)
        pixels = encodings.pop("pixel_values").to(model.dtype)
        encoded = model.get_image_features(pixels)
        encoded.pooler_output = encoded.pooler_output[torch.tensor(indices, device=pixels.device)]
        encoded.last_hidden_state = None
        tokens = model.generate(
            **encodings,
            mm_encoder_outputs={"image": encoded},
            max_new_tokens=max(limits),
            do_sample=False,
            num_beams=1,
            logits_processor=self.weights.reply_processors(batch, prompt_length=0),
        )
        return [self._generated(*each) for each in zip(batch, tokens, lengths, limits, strict=True)]

    def _generated(self, each: GenerationRequest, row: Any, prompt_tokens: int, limit: int) -> Generated:
        tokenizer = self.weights.tokenizer
        ended = tokenizer.eos_token_id in row.tolist()[1:]  # the decoder starts with the end token
        text = _PADDING.sub("", tokenizer.decode(row, skip_special_tokens=False))
        reply_tokens = int((row != tokenizer.pad_token_id).sum())
        room = limit if limit < each.prompt.max_new_tokens else None
        return Generated(text, Usage(int(prompt_tokens), reply_tokens), truncated=not ended, room=room)


def _distinct_images(batch: Sequence[GenerationRequest]) -> tuple[list[Any], list[int]]:
    """The distinct images of a batch, and for each prompt which of them it is about."""
    images: dict[int, Any] = {}
    indices = []
    for each in batch:
        media = each.request.media
        if not isinstance(media, DecodedImage):
            raise TypeError("Florence-2 is given frames of a video one by one, never a whole video")
        images.setdefault(id(media.pixels), media.pixels)
        indices.append(list(images).index(id(media.pixels)))
    return list(images.values()), indices


class _EachOnce:
    """An image processor that is given a picture for each prompt about it, and makes each picture ready once."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __call__(self, images: Sequence[Any], **settings: Any) -> Any:
        return self._images(list({id(image): image for image in images}.values()), **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._images, name)


def _labelled_locations(text: str) -> list[tuple[str, str]]:
    """Split `label<loc_1>...label<loc_2>...` strictly; anything left over is a malformed reply."""
    text = _PADDING.sub("", text).strip()
    found, end = [], 0
    for match in _LABELLED.finditer(text):
        if match.start() != end:
            break
        found.append((match.group(1).strip(), match.group(2)))
        end = match.end()
    if text[end:].strip():
        raise ReplyError(f"not a list of labelled places from here on: {text[end : end + 80]!r}")
    return found
