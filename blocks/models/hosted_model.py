"""A system at a vendor: the account, the model id with its price and its end, what a request will cost."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, SecretStr

from sightflow.blocks.models.contract import Availability, Prompt
from sightflow.blocks.models.hosted_profiles import HostedProfile, expected_tokens, of_id, text_tokens
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.replies.frame_regions import attach_frames
from sightflow.blocks.models.replies.json_regions import ReadMask, read_regions
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.geometry import BoxFormat
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.redaction import remember
from sightflow.schemas.spec import ServerAddress
from sightflow.schemas.vision import ModelRef, Usage, VisionRequest

_TYPICAL_IMAGE = (1920, 1080)


class HostedModel(VisionModel):
    """A model behind a vendor's API: media leave the machine, every request costs money, the key is shown nowhere."""

    media_kinds = frozenset(MediaKind)
    vendor: ClassVar[str]
    vendor_engine: ClassVar[str]
    """The vendor's SDK, by its name in `engines/factory.py`."""
    key_variables: ClassVar[tuple[str, ...]]
    """Environment variables that may hold the key; the first that is set counts."""
    profiles: ClassVar[Mapping[str, HostedProfile]]
    fallback_profile: ClassVar[HostedProfile]
    """How an id without a profile is taken to behave; its prices must be configured."""
    retired: ClassVar[Mapping[str, str]]
    """Ids that are gone, with their successors."""
    box_keys: ClassVar[tuple[str, ...]]
    """What a box is called in the JSON that is asked for."""

    api_key: SecretStr | None = Field(default=None, description="Empty: the vendor's environment variable.")
    base_url: ServerAddress | None = Field(default=None, description="Empty: the vendor's own endpoint.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Empty: as the vendor says.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Empty: as the vendor says.")
    usd_per_million_input: float | None = Field(default=None, ge=0, description="Empty: the list price known here.")
    usd_per_million_output: float | None = Field(default=None, ge=0, description="Empty: the list price known here.")
    timeout: float = Field(default=120.0, gt=0, description="Seconds without a byte; twice that: the whole answer.")
    max_concurrency: int = Field(default=8, ge=1, le=256, description="Most requests in flight.")
    max_attempts: int = Field(default=6, ge=1, le=20, description="Tries of one request before it counts as failed.")
    longest_wait: float = Field(default=120.0, gt=0, description="Seconds; told to wait longer, a request fails.")
    max_new_tokens: int = Field(default=4096, ge=1, description="Longest reply, in tokens.")
    frame_side: int = Field(default=512, ge=64, le=2048, description="Longest side of a video's frames, in pixels.")

    @property
    def engine_name(self) -> str:
        return self.vendor_engine

    # --- the account ----------------------------------------------------------------------------

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.id or self.default.id, self.revision, self.default.licence, self.default.commercial_use)

    @property
    def profile(self) -> HostedProfile:
        """What is known of the configured id, or how an unknown one is taken to behave."""
        return of_id(self.profiles, self.ref.id) or self.fallback_profile

    @property
    def successor(self) -> str:
        """The id to use when the configured one is no longer served."""
        return of_id(self.retired, self.ref.id) or self.profile.successor or self.default.id

    @property
    def rates(self) -> Rates | None:
        """What tokens cost; None if neither configured nor known."""
        known = of_id(self.profiles, self.ref.id)
        into = known.usd_per_million_input if known else None
        out = known.usd_per_million_output if known else None
        into = into if self.usd_per_million_input is None else self.usd_per_million_input
        out = out if self.usd_per_million_output is None else self.usd_per_million_output
        return None if into is None or out is None else Rates(into, out)

    def key(self) -> str:
        """The API key, of the settings or of the environment; empty if there is none. Never to be shown."""
        if self.api_key is not None:
            return remember(self.api_key.get_secret_value().strip())
        return next((key for name in self.accepted_variables if (key := os.environ.get(name, "").strip())), "")

    @property
    def accepted_variables(self) -> tuple[str, ...]:
        """The environment variables that may hold the key, as this model is configured."""
        return self.key_variables

    @property
    def vendor_place(self) -> str:
        """Where requests go, in words."""
        return self.base_url or self.vendor

    @property
    def needs_key(self) -> bool:
        """Whether it is a key that opens the account, and not a token or a credential that its SDK finds."""
        return True

    def access(self) -> dict[str, Any]:
        """What an engine's account has besides key, address and limits; nothing, unless overridden."""
        return {}

    def account_availability(self) -> Availability:
        """Whether id, key and price are there; nothing is sent."""
        model_id, known = self.ref.id, self.profile
        # A gateway of the user's own may serve what the vendor no longer does.
        if self.base_url is None and (successor := of_id(self.retired, model_id)):
            gone = f"{model_id} has been shut down by {self.vendor}"
            return Availability(False, gone, f"set id to its successor, {successor}")
        key, variables = self.key(), " or ".join(self.accepted_variables)
        if not key and self.needs_key:
            remedy = f"set {variables}, or the api_key of a saved {self._block_type_slug} block"
            return Availability(False, "there is no API key", remedy)
        if not (key.isascii() and key.isprintable()) or " " in key:
            return Availability(False, "the API key holds characters that no key has", f"copy it anew into {variables}")
        if self.rates is None:
            remedy = "set usd_per_million_input and usd_per_million_output"
            return Availability(False, f"the price of {model_id} is not known", remedy)
        ends = f"; it ends {known.ends}, its successor is {known.successor}" if known.ends else ""
        return Availability(True, f"{model_id} at {self.vendor_place}{ends}")

    # --- what a subclass says -------------------------------------------------------------------

    @abstractmethod
    def sent_size(self, size: Size) -> Size:
        """The size at which an image of this size is sent: no larger than the vendor will use."""

    @abstractmethod
    def image_tokens(self, size: Size) -> int:
        """How many tokens the vendor counts for an image of this size."""

    @property
    def spoken_format(self) -> BoxFormat:
        """The coordinates that the configured model speaks in."""
        return self.box_format

    @property
    def mask_reader(self) -> ReadMask | None:
        """How a mask that comes as a string is read; None if they come as polygons only."""
        return None

    def shown_size(self, media: Media) -> Size:
        """The size at which an image or a video's frame is sent."""
        if isinstance(media, DecodedImage):
            return self.sent_size(media.pixels.size)
        return self.sent_size(fit_within(media.frames[0].size, self.frame_side))

    @property
    def longest_frame_side(self) -> int:
        return self.frame_side

    def generation_settings(self) -> dict[str, Any]:
        return super().generation_settings() | {"frame_side": self.frame_side}

    # --- replies --------------------------------------------------------------------------------

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        enrichment, media = request.enrichment, request.media
        if not enrichment.capability.gives_places:
            return read_answer(text, enrichment, prompt)
        transform = self.image_transform(request)
        regions = read_regions(text, enrichment, self.spoken_format, transform, self.box_keys, self.mask_reader)
        return attach_frames(text, regions, enrichment, media) if isinstance(media, DecodedVideo) else regions

    # --- what it costs --------------------------------------------------------------------------

    def price_per_item(self, enrichment: Enrichment, media_kind: MediaKind) -> float:
        """The price of one item of 1920 x 1080 pixels, a video of a minute, with a reply of usual length."""
        prompts, size, images, times = self.prompts(enrichment, media_kind), _TYPICAL_IMAGE, 1, 1
        if media_kind is MediaKind.VIDEO:
            sampling, size = self.sampling(enrichment), fit_within(size, self.frame_side)
            images = sampling.frames or math.ceil(60 * (sampling.fps or 0.5))
            times = math.ceil(images / sampling.max_frames)
            if times > 1 and enrichment.capability.gives_text:  # and an overview, for the answer as a whole
                images, times = images + sampling.max_frames, times + 1
        tokens = sum(images * self.image_tokens(size) + times * text_tokens(prompt.text) for prompt in prompts)
        reply = times * len(prompts) * self.expected_reply_tokens(enrichment)
        return (self.rates or FREE).cost(Usage(tokens, reply))

    def expected_reply_tokens(self, enrichment: Enrichment) -> int:
        """How many tokens a reply usually has, reasoning before it included."""
        return expected_tokens(enrichment) + self.profile.thinking_tokens // 4
