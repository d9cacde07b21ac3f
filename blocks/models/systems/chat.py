"""Any image-text-to-text model, by its id: of the hub, of a folder, or of a provider that speaks OpenAI's protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr

from sightflow.blocks.models.chat import families as chat_families
from sightflow.blocks.models.chat.families import FAMILIES, Family
from sightflow.blocks.models.chat.template import check_template, media_token_ids, read_template
from sightflow.blocks.models.contract import Availability, GenerationRequest, Prompt, ReplyError
from sightflow.blocks.models.image_sizes import Size, on_grid
from sightflow.blocks.models.instructions import instruction_prompts
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.replies.box_forms import BOX_FORMS, BoxForm
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.reply_forms import FreeText
from sightflow.blocks.models.video.frame_prompts import frames_at_times
from sightflow.blocks.models.weights import is_folder, model_type
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.failure import Cause, ModelError
from sightflow.schemas.geometry import ImageTransform
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.rating import Rating, unrated
from sightflow.schemas.vision import ModelRef, VisionRequest

_PIXELS_SENT = {"step": 28, "min_pixels": 4 * 28 * 28, "max_pixels": 1280 * 28 * 28}
"""A size that the servers' processors of Qwen2.5-VL leave as it is, so that both speak of the same pixels."""

Written = Literal[
    "auto", "thousandths", "thousandths_y_first", "pixels", "fractions", "marked", "referred", "points", "loc"
]
"""How a model writes boxes: a key of `BOX_FORMS`, or as the family is known to."""


class Chat(OpenWeightsModel):
    """Any model that transformers maps to image-text-to-text, with its processor and chat template; or whatever a
    provider serves by OpenAI's protocol.

    How a family writes boxes, a table says (`chat/families.py`); of another, `box_format` does, or regions are refused.
    Nobody has rated these models: one answers where an enrichment names it.
    """

    _block_type_name = "Sightflow chat model"
    _block_type_slug = "sightflow-chat"

    rating = Rating(
        system="chat",
        capabilities=unrated(*Capability),
        deployment="medium",
        getting_started="medium",
        weights="open",
        used_by="transformers, vLLM, any OpenAI-compatible endpoint",
        strength="any model, by its id",
    )
    media_kinds = frozenset(MediaKind)
    supports_vllm = True
    model_class = "AutoModelForImageTextToText"
    memory_gib = 5.5
    default = ModelRef(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct", revision="main", licence="apache-2.0", commercial_use="yes"
    )

    # Of the other systems it is a constant.
    box_format: Written = Field(  # type: ignore[misc, assignment]
        default="auto", description="How the model writes boxes; auto: as its family is known to."
    )
    thinking: bool | None = Field(
        default=None, description="Whether a model that can think before it answers does; unset: as its template says."
    )

    _family: str | None = PrivateAttr(default=None)
    _takes_videos: bool | None = PrivateAttr(default=None)
    _seen: dict[Size, Size] = PrivateAttr(default_factory=dict)

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied._family, copied._takes_videos, copied._seen = None, None, {}
        return copied

    # --- which family ---------------------------------------------------------------------------

    @property
    def family(self) -> str | None:
        """The family of the weights, by the name transformers has for it: as their config says, or their id where they
        are not on this machine; None if neither does.
        """
        if self._family is None:
            path = self.local_path()
            self._family = model_type(path) if path else chat_families.family_of_id(self.ref.id)
        return self._family

    @property
    def known_family(self) -> Family:
        """What is known of the family; of one that is not in the table, nothing."""
        return FAMILIES.get(self.family or "", Family(""))

    @property
    def box_form(self) -> BoxForm | None:
        """The form in which the model writes boxes; None if nobody has said."""
        return BOX_FORMS.get(self.known_family.boxes if self.box_format == "auto" else self.box_format)

    @property
    def weights_class(self) -> str:
        return chat_families.weights_class(self.family or "")

    @property
    def supports_video(self) -> bool:  # type: ignore[override]
        """Whether a video's frames are looked at together: by the model itself, or as pictures at an endpoint."""
        if self.engine == "endpoint":
            return True
        if self._takes_videos is None:
            path = self.local_path()
            if path is None:
                return False
            self._takes_videos = chat_families.takes_videos(self.family, path)
        return self._takes_videos

    @property
    def prompt_conditioned_vision(self) -> bool:  # type: ignore[override]
        """Nothing is shared between prompts about one medium but where that was tried with the family."""
        return not self.known_family.shares

    @property
    def template_settings(self) -> dict[str, Any]:
        return {} if self.thinking is None else {"enable_thinking": self.thinking}

    def generation_settings(self) -> dict[str, Any]:
        settings = super().generation_settings() | self.template_settings
        if self.engine != "endpoint" and is_folder(self.ref.id) and (path := self.local_path()):
            # Of a folder the digest of the weights does not tell; of the hub the commit does.
            settings["template"] = hashlib.sha256((read_template(path) or "").encode()).hexdigest()[:16]
        return settings

    # --- whether it can be asked ----------------------------------------------------------------

    def unfit(self) -> Availability | None:
        """Why these weights cannot be asked as a chat, with what to use instead, or None."""
        return chat_families.why_unfit(self.family, None if self.engine == "endpoint" else self.local_path())

    def availability(self) -> Availability:
        return self.unfit() or super().availability()

    def refuse_another_model(self, path: Path) -> None:
        if unfit := self.unfit():
            raise ModelError(unfit.refusal(self.system))

    def unsupported_reason(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        reason = super().unsupported_reason(enrichment, media_kind)
        if reason or not enrichment.capability.gives_places:
            return reason
        if self.family is None and self.engine != "endpoint" and self.local_path() is None:
            return None  # the weights are not here, which is said first
        if self.box_form is None:
            forms = ", ".join(BOX_FORMS)
            return f"nobody has said how {self.family or self.ref.id} writes boxes; set box_format to one of: {forms}"
        refused = self.box_form.refusal(enrichment)
        return f"{self.ref.id} cannot do {enrichment.capability}: {refused}" if refused else None

    # --- what is asked and read -----------------------------------------------------------------

    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if not enrichment.capability.gives_places:
            prompts = instruction_prompts(enrichment, media_kind, self.max_new_tokens, "")
        elif self.box_form is None or self.box_form.refusal(enrichment):
            raise ModelError(f"{self.system}: {self.unsupported_reason(enrichment, media_kind)}")
        else:
            prompts = self.box_form.prompts(enrichment, media_kind, self.max_new_tokens)
        if self.thinking:  # which comes before the answer, where a form has no place for it
            return tuple(each if each.choices else replace(each, reply_form=FreeText()) for each in prompts)
        return prompts

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        enrichment = request.enrichment
        if not enrichment.capability.gives_places:
            return read_answer(text, enrichment, prompt)
        if self.box_form is None:
            raise ReplyError(f"nobody has said how {self.ref.id} writes boxes", Cause.UNSUPPORTED)
        return self.box_form.read(prompt, text, enrichment, self.image_transform(request))

    # --- media ----------------------------------------------------------------------------------

    def media_inputs(self, batch: Sequence[GenerationRequest]) -> dict[str, Any]:
        import numpy as np

        images = [each.request.media.pixels for each in batch if isinstance(each.request.media, DecodedImage)]
        videos = [each.request.media for each in batch if isinstance(each.request.media, DecodedVideo)]
        if videos and not self.supports_video:
            raise ReplyError("an image was expected and this is a video", Cause.UNSUPPORTED)
        if (images and videos) or len({len(video.frames) for video in videos}) > 1:
            # SmolVLM's processor tells each prompt of a batch how many frames the longest video has. What is raised
            # here has the batch halved until all of one are alike.
            raise ReplyError("videos of a batch have the same number of frames, and no images beside them")
        inputs: dict[str, Any] = {"images": images} if images else {}
        if videos:
            inputs["videos"] = [np.stack([np.asarray(frame) for frame in video.frames]) for video in videos]
            inputs["videos_kwargs"] = {
                "do_sample_frames": False,
                "video_metadata": [frames_at_times(video) for video in videos],
                "input_data_format": "channels_last",
            }
        return inputs

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        """The whole picture; where boxes are written in its pixels, as the model sees it."""
        media = request.media
        if self.box_form is not BOX_FORMS["pixels"] or not isinstance(media, DecodedImage):
            return super().image_transform(request)
        return ImageTransform.resized(media.width, media.height, *self.seen_size(media.pixels.size))

    def sent_size(self, size: Size) -> Size:
        return on_grid(size, **_PIXELS_SENT) if self.box_form is BOX_FORMS["pixels"] else super().sent_size(size)

    def seen_size(self, size: Size) -> Size:
        """Width and height in pixels of what the model sees of a picture of this size.

        Raises ReplyError if its processor cuts pictures up, so that there is no such size.
        """
        if self.engine == "endpoint":
            return self.sent_size(size)
        if size not in self._seen:
            self._seen[size] = self._processed_size(size)
        return self._seen[size]

    def _processed_size(self, size: Size) -> Size:
        from PIL import Image

        processor = self._processor.image_processor
        made = processor(images=[Image.new("RGB", size)], return_tensors="pt")
        if "image_grid_thw" in made:
            _, rows, columns = made["image_grid_thw"][0].tolist()
            return columns * processor.patch_size, rows * processor.patch_size
        shape = made["pixel_values"].shape
        if len(shape) != 4 or shape[0] != 1:
            raise ReplyError("its processor cuts pictures up: box_format cannot be pixels", Cause.UNSUPPORTED)
        return int(shape[3]), int(shape[2])

    # --- the processor and its template ---------------------------------------------------------

    def load_processor(self, path: Path) -> Any:
        processor = super().load_processor(path)
        if processor.chat_template is None:  # older folders have it in the tokenizer's config
            processor.chat_template = read_template(path)
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return processor

    def on_loaded(self, processor: Any, config: Any) -> None:
        super().on_loaded(processor, config)
        check_template(processor)

    def processor_overrides(self, media: Media | None) -> dict[str, Any]:
        """The frames are those that were sampled here: no processor is to sample among them again."""
        takes_videos = getattr(self._processor, "video_processor", None) is not None
        return {"videos_kwargs": {"do_sample_frames": False}} if takes_videos else {}

    def finish_inputs(self, inputs: Any) -> None:
        """Raises ReplyError if a prompt holds no place for what it is about: the model would answer without having
        looked.
        """
        ids = media_token_ids(self._processor, self._config)
        pixels = any(name.startswith("pixel_values") for name in inputs)
        places = [any(token in ids for token in row) for row in inputs["input_ids"].tolist()]
        if not pixels or not all(places):
            raise ReplyError("the processor left the picture out of the prompt", Cause.UNSUPPORTED)

    def placeholders(self) -> list[str]:
        tokens = self._processor.tokenizer.convert_ids_to_tokens(sorted(media_token_ids(self._processor, self._config)))
        return list(dict.fromkeys([*super().placeholders(), *map(str, tokens)]))
