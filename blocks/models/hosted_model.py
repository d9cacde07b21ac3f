"""A system at a vendor: the account, the model id with its price and its end, what a request will cost."""

from __future__ import annotations

import json
import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, ClassVar

from pydantic import Field, SecretStr

from sightflow.blocks.models.contract import Availability, GenerationRequest, Incomplete, Output, Prompt
from sightflow.blocks.models.hosted_profiles import HostedProfile, expected_tokens, of_id, text_tokens
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.prices.expenses import TYPICAL_SECONDS, TYPICAL_SIZE
from sightflow.blocks.models.prices.listed_price import ListedPrice
from sightflow.blocks.models.prices.price_list import configured_rates, listed_price
from sightflow.blocks.models.replies.asked_together import CombinedPrompt, apart, can_join, shares, together
from sightflow.blocks.models.replies.fields import read_answer
from sightflow.blocks.models.replies.frame_regions import attach_frames
from sightflow.blocks.models.replies.json_regions import ReadMask, read_regions
from sightflow.blocks.models.reply_forms import JsonSchema
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.geometry import BoxFormat, GeometryError
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.redaction import remember
from sightflow.schemas.spec import ServerAddress
from sightflow.schemas.vision import ModelRef, Usage, VisionRequest

_SECONDS_TO_ANSWER, _TOKENS_A_SECOND = 2.0, 60.0  # of a hosted model of usual speed
_TITLE_TOKENS = 10  # the words before a frame: its number and time


class HostedModel(VisionModel):
    """A model behind a vendor's API: media leave the machine, every request costs money, the key is shown nowhere."""

    media_kinds = frozenset(MediaKind)
    vendor: ClassVar[str]
    vendor_engine: ClassVar[str]
    """The vendor's SDK, by its name in `engines/factory.py`."""
    price_provider: ClassVar[str] = ""
    """The vendor, as the price lists name it; empty: prices must be configured."""
    schemas_cost_tokens: ClassVar[bool] = True
    """Whether the vendor counts the schema that holds a reply to its form as a part of the prompt."""
    key_variables: ClassVar[tuple[str, ...]]
    """Environment variables that may hold the key; the first that is set counts."""
    profiles: ClassVar[Mapping[str, HostedProfile]]
    fallback_profile: ClassVar[HostedProfile]
    """How an id without a profile is taken to behave."""
    retired: ClassVar[Mapping[str, str]]
    """Ids that are gone, with their successors."""
    box_keys: ClassVar[tuple[str, ...]]
    """What a box is called in the JSON that is asked for."""

    api_key: SecretStr | None = Field(default=None, description="Empty: the vendor's environment variable.")
    base_url: ServerAddress | None = Field(default=None, description="Empty: the vendor's own endpoint.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Empty: as the vendor says.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Empty: as the vendor says.")
    usd_per_million_input: float | None = Field(
        default=None, ge=0, le=1e6, description="Empty: the list price known here."
    )
    usd_per_million_output: float | None = Field(
        default=None, ge=0, le=1e6, description="Empty: the list price known here."
    )
    usd_per_million_cached_input: float | None = Field(default=None, ge=0, le=1e6, description="Empty: as known here.")
    batch_price_share: float | None = Field(
        default=None, ge=0, le=1, description="What a batch API takes of the price, e.g. 0.5; empty: as known here."
    )
    timeout: float = Field(default=120.0, gt=0, description="Seconds without a byte; twice that: the whole answer.")
    max_concurrency: int = Field(default=8, ge=1, le=256, description="Most requests in flight.")
    max_attempts: int = Field(default=6, ge=1, le=20, description="Tries of one request before it counts as failed.")
    longest_wait: float = Field(default=120.0, gt=0, description="Seconds; told to wait longer, a request fails.")
    max_new_tokens: int = Field(default=4096, ge=1, description="Longest reply, in tokens.")
    frame_side: int = Field(default=512, ge=64, le=2048, description="Longest side of a video's frames, in pixels.")
    combine: bool = Field(default=False, description="Ask all that is asked of one object in one request.")

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
    def listed_price(self) -> ListedPrice | None:
        """The list price of the configured id; None if it is not known here."""
        return listed_price(self.price_provider, self.ref.id)

    def rates_on(self, day: date) -> Rates | None:
        """What tokens cost from a day on; None if neither configured nor known."""
        listed = self.listed_price
        return configured_rates(
            listed.rates.on(day) if listed else None,
            self.usd_per_million_input,
            self.usd_per_million_output,
            self.usd_per_million_cached_input,
            self.batch_price_share,
        )

    @property
    def price_is_known(self) -> bool:
        return self.rates is not None

    @property
    def notice(self) -> str:
        """What anybody who pays for this id should know today: that it ends, that its price is old or changes."""
        day, listed = calendar_day.today(), self.listed_price
        said = [] if self.base_url else [self.profile.end_notice(self.ref.id, day)]
        if listed and self.usd_per_million_input is None and self.usd_per_million_output is None:
            said += listed.notices(self.ref.id, day)
        return "; ".join(filter(None, said))

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
        combined = {"combine": True} if self.combine else {}
        return super().generation_settings() | {"frame_side": self.frame_side} | combined

    def generate(self, batch: Sequence[GenerationRequest]) -> Sequence[Output]:
        if not self.combine:
            return super().generate(batch)
        joined = together(batch)
        try:
            made: Sequence[Output | None] = super().generate(joined)
        except Incomplete as stopped:
            raise type(stopped)(str(stopped), apart(batch, joined, stopped.done)) from None
        return [output for output in apart(batch, joined, made) if output is not None]

    # --- replies --------------------------------------------------------------------------------

    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        if isinstance(prompt, CombinedPrompt):  # the engine sees whether it can be read; each part is read by itself
            return self._parsed_parts(prompt, text)[0]
        enrichment, media = request.enrichment, request.media
        if not enrichment.capability.gives_places:
            return read_answer(text, enrichment, prompt)
        transform = self.image_transform(request)
        regions = read_regions(text, enrichment, self.spoken_format, transform, self.box_keys, self.mask_reader)
        return attach_frames(text, regions, enrichment, media) if isinstance(media, DecodedVideo) else regions

    def _parsed_parts(self, prompt: CombinedPrompt, text: str) -> list[Result]:
        """What each part says. Raises ReplyError if one cannot be read, GeometryError if all can and a box is wrong."""
        results: list[Result] = []
        wrong: GeometryError | None = None
        for part, said in zip(prompt.parts, prompt.texts(text), strict=True):
            try:
                results.append(self.parse(part.request, part.prompt, said))
            except GeometryError as error:
                wrong = error
        if wrong:
            raise wrong
        return results

    # --- what it costs --------------------------------------------------------------------------

    def price_per_item(self, enrichment: Enrichment, media_kind: MediaKind) -> float:
        """The price of one item of 1920 x 1080 pixels, a video of a minute, with a reply of usual length."""
        if media_kind is MediaKind.IMAGE:
            return self._price(self.request_usages(enrichment, media_kind, TYPICAL_SIZE))
        sampling = self.sampling(enrichment)
        frames = sampling.frames or math.ceil(TYPICAL_SECONDS * (sampling.fps or 0.5))
        windows = [min(sampling.max_frames, frames - k) for k in range(0, frames, sampling.max_frames)]
        if len(windows) > 1 and enrichment.capability.gives_text:  # and an overview, for the answer as a whole
            windows.append(sampling.max_frames)
        asked: list[Usage] = []
        for count in windows:
            seconds = TYPICAL_SECONDS * count / frames
            asked += self.request_usages(enrichment, media_kind, TYPICAL_SIZE, count, seconds)
        return self._price(asked)

    def _price(self, requests: Sequence[Usage]) -> float:
        rates = self.rates or FREE
        return sum(rates.cost(usage) for usage in requests)

    def request_usages(
        self,
        enrichment: Enrichment,
        media_kind: MediaKind,
        size: Size,
        frames: int = 1,
        seconds: float = 0.0,
        has_sound: bool = True,
        asked_together: int = 1,
    ) -> list[Usage]:
        """As of every model. `asked_together`: how many enrichments share a request, each its part of the media."""
        if media_kind is MediaKind.IMAGE:
            media = Usage(self.image_tokens(self.sent_size(size)))
        else:
            shown = self.sent_size(fit_within(size, self.frame_side))
            media = self.window_usage(enrichment, shown, frames, seconds if has_sound else 0.0)
        reply = self.expected_reply_tokens(enrichment)
        prompts = self.prompts(enrichment, media_kind)
        if asked_together > 1 and self.combine and can_join(prompts):
            media = shares(media, asked_together)[0]
        return [media + Usage(self.prompt_tokens(prompt), reply) for prompt in prompts]

    def expected_seconds(self, requests: Sequence[Usage], items: int) -> float:
        """About how long so many items take, each of these requests: as many at once as are allowed, within the limits
        of a minute.
        """
        waits = sum(_SECONDS_TO_ANSWER + usage.output_tokens / _TOKENS_A_SECOND for usage in requests)
        tokens = sum(usage.input_tokens + usage.output_tokens for usage in requests)
        most_requests = self.requests_per_minute or self.profile.requests_per_minute or math.inf
        most_tokens = self.tokens_per_minute or self.profile.tokens_per_minute or math.inf
        return items * max(waits / self.max_concurrency, 60 * len(requests) / most_requests, 60 * tokens / most_tokens)

    def window_usage(self, enrichment: Enrichment, size: Size, frames: int, seconds: float) -> Usage:
        """The tokens of so many frames of a video, sent at this size: images with their titles, unless overridden.

        `seconds`: of sound.
        """
        return Usage(frames * (self.image_tokens(size) + _TITLE_TOKENS))

    def prompt_tokens(self, prompt: Prompt) -> int:
        """About how many tokens the words of a prompt have, with the schema that its reply is held to."""
        form = prompt.reply_form if self.enforce_reply_form and self.schemas_cost_tokens else None
        schema = json.dumps(form.schema) if isinstance(form, JsonSchema) else ""
        return text_tokens(prompt.text) + (text_tokens(schema) if schema else 0)

    def expected_reply_tokens(self, enrichment: Enrichment) -> int:
        """How many tokens a reply usually has, reasoning before it included."""
        return expected_tokens(enrichment) + self.profile.thinking_tokens // 4
