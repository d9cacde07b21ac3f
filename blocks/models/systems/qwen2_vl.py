"""Qwen2-VL (arXiv:2409.12191), Qwen2.5-VL (arXiv:2502.13923) and Qwen3-VL: pictures and films of any size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr

from sightflow.blocks.extras import require
from sightflow.blocks.models.contract import GenerationRequest, Prompt, ReplyError
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.replies.json_regions import read_regions
from sightflow.blocks.models.replies.qwen_boxes import MARKED_QUESTION, marked_form, read_marked_boxes
from sightflow.blocks.models.replies.regions_schema import MOST_PIXELS, region_form
from sightflow.blocks.models.video.frame_prompts import frames_at_times
from sightflow.blocks.models.weights import model_type
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.failure import Cause, ModelError
from sightflow.schemas.geometry import PER_MILLE, PIXELS_SEEN, BoxFormat, ImageTransform
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.rating import Rating, stars
from sightflow.schemas.vision import ModelRef, VisionRequest

_CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
_UNITS = {"qwen2_vl": "0-1000", "qwen2_5_vl": "pixels", "qwen3_vl": "0-1000"}
_POLYGON_FORM = '"polygon": [[x, y], ...] around it, likewise'


class Qwen2VL(OpenWeightsModel):
    """The Qwen-VL line. Each generation has its own coordinates; which it is, the weights' config says.

    Qwen2-VL: `<|box_start|>(x1,y1),(x2,y2)<|box_end|>` in 0-1000. Qwen2.5-VL: JSON `bbox_2d` in pixels of
    the picture as its processor resized it. Qwen3-VL: JSON `bbox_2d` in 0-1000. None gives scores;
    outlines are not a native form of any and are asked for in words.
    """

    _block_type_name = "Sightflow Qwen2-VL"
    _block_type_slug = "sightflow-qwen2-vl"

    rating = Rating(
        system="qwen2-vl",
        capabilities=stars(
            captioning=5, answering=5, reasoning=4, grounding=4, detection=3, tracking=2, video_captioning=3
        ),
        deployment="medium",
        getting_started="medium",
        weights="open",
        used_by="own deployment (Hugging Face)",
        community="active, strong in Chinese",
        strength="Chinese, balanced",
        languages=("zh", "en"),
    )
    media_kinds = frozenset({MediaKind.IMAGE, MediaKind.VIDEO})
    box_format = PER_MILLE
    supports_video = True
    supports_vllm = True
    model_class = _CLASSES["qwen2_vl"]
    memory_gib = 6.0
    default = ModelRef("Qwen/Qwen2-VL-2B-Instruct", revision="main", licence="apache-2.0", commercial_use="yes")

    generation: Literal["auto", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = Field(
        default="auto", description="auto: as the weights' config says, or their id if they are not on this machine."
    )
    max_pixels: int | None = Field(
        default=None,
        ge=64 * 64,
        description="Most pixels seen of a picture or frame; unset: as the weights' processor.",
    )

    _known_generation: str = PrivateAttr(default="")
    _image_processor: Any = PrivateAttr(default=None)

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied._known_generation, copied._image_processor = "", None
        return copied

    @property
    def known_generation(self) -> str:
        """The generation of the weights, by the name transformers has for it. Raises ModelError if it is unknown."""
        if self.generation != "auto":
            return self.generation
        if not self._known_generation:
            self._known_generation = self._find_generation()
        return self._known_generation

    def _find_generation(self) -> str:
        path = self.local_path()
        if path is not None:
            found = model_type(path)
            if found not in _CLASSES:
                raise ModelError(f"{self.system}: {path} holds weights of {found!r}; known: {', '.join(_CLASSES)}")
            return found
        number = re.search(r"qwen[-_]?(2[-_.]5|\d)[-_]?vl", self.ref.id.lower())
        named = {"2": "qwen2_vl", "3": "qwen3_vl"}.get(number.group(1), "qwen2_5_vl") if number else "qwen2_vl"
        return named

    @property
    def weights_class(self) -> str:
        return _CLASSES[self.known_generation]

    def load_processor(self, path: Path) -> Any:
        processor = super().load_processor(path)
        images, videos = processor.image_processor, processor.video_processor
        if videos.cap_pixels_per_frame is None:
            videos.cap_pixels_per_frame = True  # as the vendor's own code does; long videos stay affordable
        if self.max_pixels is not None:
            _limit(images, self.max_pixels)
            if self.known_generation == "qwen3_vl":  # its limit on a video counts the tokens of a frame
                videos.cap_pixels_per_frame = True
                videos.max_video_tokens = max(self.max_pixels // (videos.patch_size * videos.merge_size) ** 2, 1)
            else:
                _limit(videos, self.max_pixels)
        return processor

    def processor_overrides(self, media: Media | None) -> dict[str, Any]:
        images, videos = self._processor.image_processor, self._processor.video_processor
        video_settings = {"cap_pixels_per_frame": videos.cap_pixels_per_frame, "do_sample_frames": False}
        if self.max_pixels is None:
            return {"videos_kwargs": video_settings}
        budget = _budget(videos)
        if self.known_generation == "qwen3_vl" and isinstance(media, DecodedVideo):
            # Its limit on a frame is no keyword: what comes of it for this film is its budget for the whole.
            frames, cell = max(len(media.frames), 2), videos.patch_size * videos.merge_size
            frame = min(videos.max_video_tokens * cell**2, budget["longest_edge"] // frames)
            budget["longest_edge"] = max(frame, int(budget["shortest_edge"] * 1.05)) * frames
            video_settings["cap_pixels_per_frame"] = False
        return {"images_kwargs": {"size": _budget(images)}, "videos_kwargs": video_settings | {"size": budget}}

    def generation_settings(self) -> dict[str, Any]:
        settings = super().generation_settings()
        return settings if self.max_pixels is None else settings | {"max_pixels": self.max_pixels}

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        limit, native = self.max_new_tokens, self.known_generation == "qwen2_vl"
        if native and enrichment.capability in (Capability.OBJECT_DETECTION, Capability.VISUAL_GROUNDING):
            subjects = enrichment.phrases or enrichment.labels
            if not subjects:
                every = "Find every object in the image, with grounding."
                return (Prompt(every, reply_form=marked_form(), max_new_tokens=limit),)
            return tuple(
                Prompt(MARKED_QUESTION.format(s), subject=s, reply_form=marked_form(s), max_new_tokens=limit)
                for s in subjects
            )
        box_form = f'"bbox_2d": [x_min, y_min, x_max, y_max] in {_UNITS[self.known_generation]}'
        regions = None
        if enrichment.capability.gives_places:
            most = 1000 if _UNITS[self.known_generation] == "0-1000" else MOST_PIXELS
            regions = region_form(enrichment, "bbox_2d", {"type": "integer", "minimum": 0, "maximum": most})
        return instruction_prompts(enrichment, media_kind, limit, box_form, _POLYGON_FORM, regions)

    def media_inputs(self, batch: Sequence[GenerationRequest]) -> dict[str, Any]:
        import numpy as np

        images, videos, times = [], [], []
        for each in batch:
            media = each.request.media
            _check_ratio(media.width, media.height)
            if isinstance(media, DecodedImage):
                images.append(media.pixels)
                continue
            frames = media.frames if len(media.frames) > 1 else media.frames * 2  # they are looked at in pairs
            videos.append(np.stack([np.asarray(frame) for frame in frames]))
            times.append(frames_at_times(media))
        how = {"do_sample_frames": False, "video_metadata": times, "input_data_format": "channels_last"}
        inputs: dict[str, Any] = {"images": images} if images else {}
        return inputs | ({"videos": videos, "videos_kwargs": how} if videos else {})

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        """The picture as the processor resizes it, to multiples of its cells and within its budget of pixels."""
        media = request.media
        if self.known_generation != "qwen2_5_vl" or not isinstance(media, DecodedImage):
            return super().image_transform(request)
        return ImageTransform.resized(media.width, media.height, *self.seen_size(media.pixels.size))

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height in pixels of what the model sees of a picture of this size."""
        _check_ratio(*size)
        require("transformers", "local", f"{self.system}, to know the pixels that its processor makes of an image,")
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        sizing = self._sizing_processor()
        height, width = smart_resize(
            size[1],
            size[0],
            factor=sizing.patch_size * sizing.merge_size,
            min_pixels=sizing.size["shortest_edge"],
            max_pixels=sizing.size["longest_edge"],
        )
        return width, height

    def prompt_length(self, media: Media) -> float:
        try:
            width, height = self.seen_size((media.width, media.height))
        except ReplyError:
            return 0.0
        return float(width * height * (len(media.frames) if isinstance(media, DecodedVideo) else 1))

    def sent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """As the model sees it: the server's processor leaves it alone, so both speak of the same pixels."""
        return self.seen_size(size)

    def _sizing_processor(self) -> Any:
        """The image processor: that of the loaded weights, else of their folder, else as the vendor recommends."""
        if self._processor is not None:
            return self._processor.image_processor
        if self._image_processor is None:
            from transformers import AutoImageProcessor, Qwen2VLImageProcessor

            path = self.local_path()
            if path is not None:
                self._image_processor = AutoImageProcessor.from_pretrained(
                    path, trust_remote_code=False, local_files_only=True
                )
                if self.max_pixels is not None:
                    _limit(self._image_processor, self.max_pixels)
            else:
                patch = 16 if self.known_generation == "qwen3_vl" else 14
                budget = {
                    "shortest_edge": 4 * (2 * patch) ** 2,
                    "longest_edge": self.max_pixels or 1280 * (2 * patch) ** 2,
                }
                self._image_processor = Qwen2VLImageProcessor(size=budget, patch_size=patch)
        return self._image_processor

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        enrichment = request.enrichment
        if not enrichment.capability.gives_places:
            return read_answer(text, enrichment, prompt)
        if self.known_generation == "qwen2_vl" and enrichment.capability is not Capability.SEGMENTATION:
            return read_marked_boxes(prompt, text, enrichment, self.image_transform(request))
        pixels = self.known_generation == "qwen2_5_vl"
        space: BoxFormat = PIXELS_SEEN if pixels else PER_MILLE
        return read_regions(text, enrichment, space, self.image_transform(request))


def _budget(processor: Any) -> dict[str, int]:
    """The fewest and the most pixels that a processor makes of a picture (of Qwen3-VL's films: of all frames)."""
    return {name: processor.size[name] for name in ("shortest_edge", "longest_edge")}


def _limit(processor: Any, pixels: int) -> None:
    """Lower a processor's budget of pixels a picture to this many."""
    size = {name: min(processor.size[name], pixels) for name in ("shortest_edge", "longest_edge")}
    processor.size = type(processor.size)(**size)


def _check_ratio(width: int, height: int) -> None:
    if max(width, height) > 200 * min(width, height):
        raise ReplyError(f"sides of {width} and {height} pixels: the ratio is past the model's 200", Cause.UNSUPPORTED)
