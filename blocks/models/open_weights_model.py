"""A system with open weights: its settings, and what it tells the engines that can run them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, model_validator

from sightflow.blocks.models import weights
from sightflow.blocks.models.chat import families as chat_families
from sightflow.blocks.models.contract import (
    ENDPOINT_KEY_VARIABLE,
    Availability,
    BatchGenerator,
    GenerationRequest,
    LoadedWeights,
    ReplyError,
)
from sightflow.blocks.models.engines.factory import OPEN_WEIGHTS_ENGINES, settings_problem
from sightflow.blocks.models.hosted_profiles import expected_tokens, text_tokens
from sightflow.blocks.models.image_sizes import Size, fit_within
from sightflow.blocks.models.openai_access import OpenAIAccess
from sightflow.blocks.models.prices.expenses import TYPICAL_SECONDS, TYPICAL_SIZE
from sightflow.blocks.models.prices.listed_price import ListedPrice
from sightflow.blocks.models.prices.price_list import configured_rates, endpoint_price
from sightflow.blocks.models.video.frame_by_frame import as_frame_enrichment
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause, ModelError
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.spec import ServerAddress
from sightflow.schemas.vision import Usage

_LONGEST_SENT = 2048
ENDPOINT_CELL = 28 * 28
"""Pixels of an image that a token is taken to stand for at an endpoint, as the Qwen-VL line counts."""
ENDPOINT_FRAME_SIDE = 512
"""Longest side of a video's frames that an endpoint is sent, in pixels."""


class OpenWeightsModel(OpenAIAccess, VisionModel):
    """A system whose weights anybody can load: a hub id or a local folder.

    They run on transformers' own classes in this process; or, by `engine: endpoint`, in a server that speaks OpenAI's
    protocol; or, by `engine: vllm`, in vLLM inside this process. Most systems are prompted through the chat template of
    their processor; one that is not returns a generator of its own.
    """

    supports_video: ClassVar[bool] = False
    """Whether a video's frames are looked at together; if not, one by one."""
    supports_vllm: ClassVar[bool] = False
    """Whether vLLM has a class of its own for these weights."""
    prompt_conditioned_vision: ClassVar[bool] = False
    """Whether what is seen of an image depends on the prompt, so that its encoding cannot be shared."""
    model_class: ClassVar[str]
    """Name of the class in `transformers` that holds the weights."""
    memory_gib: ClassVar[float] = 1.0
    """Device memory, in GiB, that the default weights need in 16-bit numbers, with a batch of one."""
    squeezes_to_square: ClassVar[bool] = False
    """Whether the processor squeezes any image into a square, whatever its shape."""

    engine: str = Field(
        default="local",
        description="local: transformers; endpoint: served at endpoint_url; vllm: vLLM, in process.",
        json_schema_extra={"enum": list(OPEN_WEIGHTS_ENGINES)},
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, float32 on a CPU."
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto", description="auto: SDPA where the model has it."
    )
    placement: Literal["device", "accelerate"] = Field(
        default="device", description="accelerate: spread weights that do not fit over all devices and the host."
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="Objects a forward pass; auto: 8, on a GPU as many as its memory is seen to hold."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of a batch, of which as many are computed at once as there are cores for; "
        "unset: one batch at a time, on every core.",
    )
    share_prefix: bool = Field(default=True, description="Read an image or video once for all prompts about it.")
    reduced_decoding: bool = Field(
        default=False, description="JPEGs at reduced scale, where the whole image is squeezed into a small square."
    )
    endpoint_url: ServerAddress | None = Field(default=None, description="E.g. http://localhost:8000/v1.")
    endpoint_key: SecretStr | None = Field(
        default=None, description=f"Empty: of api_key_variable, else ${ENDPOINT_KEY_VARIABLE}, if the server wants one."
    )
    endpoint_timeout: float = Field(
        default=300.0, gt=0, description="Seconds without a byte; twice that: the whole answer."
    )
    endpoint_videos: Literal["frames", "video_url"] = Field(
        default="frames", description="endpoint: a video as pictures with their times, or whole, as vLLM takes it."
    )
    max_concurrency: int = Field(
        default=32, ge=1, le=1024, description="Most requests in flight at an endpoint, or at once in vLLM."
    )
    max_attempts: int = Field(default=6, ge=1, le=20, description="endpoint: tries of one request before it fails.")
    longest_wait: float = Field(default=120.0, gt=0, description="endpoint: seconds; told to wait longer, it fails.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="endpoint: empty: as the server says.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="endpoint: empty: as the server says.")
    usd_per_million_input: float | None = Field(default=None, ge=0, le=1e6, description="endpoint: price of tokens in.")
    usd_per_million_output: float | None = Field(default=None, ge=0, le=1e6, description="endpoint: of tokens out.")
    usd_per_million_cached_input: float | None = Field(default=None, ge=0, le=1e6, description="endpoint: if cached.")
    max_model_len: int | None = Field(
        default=None, ge=1, description="vllm: most tokens of prompt, media and reply; unset: as the weights allow."
    )
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="vllm: its share of the GPU's memory.")

    _processor: Any = PrivateAttr(default=None)
    _config: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if problem := settings_problem(self.engine, self):
            raise ValueError(problem)
        return self

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied._processor = copied._config = None
        return copied

    @property
    def engine_name(self) -> str:
        return self.engine

    # --- an endpoint ----------------------------------------------------------------------------

    @property
    def server_address(self) -> str | None:
        return self.endpoint_url

    def rates_on(self, day: date) -> Rates | None:
        """What tokens cost at the endpoint: as the settings say, or as the price list of the provider at that address
        does; None if neither does. Computed here they cost nothing.
        """
        if self.engine != "endpoint":
            return FREE
        listed = self.listed_price
        own = self.usd_per_million_input, self.usd_per_million_output, self.usd_per_million_cached_input
        return configured_rates(listed.rates.on(day) if listed else None, *own, None)

    @property
    def listed_price(self) -> ListedPrice | None:
        """The list price of the id at a public endpoint; None if it is not known here."""
        from sightflow.blocks.models.engines.providers.openai_endpoint import is_private_endpoint

        if self.engine != "endpoint" or not self.endpoint_url or is_private_endpoint(self.endpoint_url):
            return None
        return endpoint_price(self.endpoint_url, self.ref.id)

    @property
    def price_is_known(self) -> bool:
        return not self.hosted or self.rates is not None

    def price_per_item(self, enrichment: Enrichment, media_kind: MediaKind) -> float:
        """The price of one item of 1920 x 1080 pixels, a video of a minute, at the prices that the settings name."""
        rates = self.rates
        if self.engine != "endpoint" or rates is None or self.unsupported_reason(enrichment, media_kind):
            return 0.0
        frames = 1
        if media_kind is MediaKind.VIDEO:
            sampling = self.sampling(enrichment)
            frames = sampling.frames or math.ceil(TYPICAL_SECONDS * (sampling.fps or 0.5))
        usages = self.request_usages(enrichment, media_kind, TYPICAL_SIZE, frames, TYPICAL_SECONDS)
        return sum(rates.cost(usage) for usage in usages)

    def request_usages(
        self,
        enrichment: Enrichment,
        media_kind: MediaKind,
        size: Size,
        frames: int = 1,
        seconds: float = 0.0,
        has_sound: bool = True,
    ) -> list[Usage]:
        if self.engine != "endpoint":
            return []
        alone = media_kind is MediaKind.VIDEO and self.runs_per_frame(enrichment, media_kind)
        width, height = self.sent_size(size if media_kind is MediaKind.IMAGE else fit_within(size, ENDPOINT_FRAME_SIDE))
        seen = (1 if alone else frames) * (width * height // ENDPOINT_CELL)
        reply = expected_tokens(as_frame_enrichment(enrichment) if alone else enrichment)
        prompts = self.effective_prompts(enrichment, media_kind)
        return [Usage(seen + text_tokens(prompt.text), reply) for prompt in prompts] * (frames if alone else 1)

    def availability(self) -> Availability:
        path = None if self.engine == "endpoint" else self.local_path()
        foreign = chat_families.foreign_weights(self.system, self.ref.id, path)
        return foreign or super().availability()

    # --- weights on disk ------------------------------------------------------------------------

    def local_path(self) -> Path | None:
        """The folder of the weights, if they are on this machine: the id itself or the hub's cache."""
        return weights.local_path(self.ref)

    def pull(self) -> Path:
        """Download the weights into the hub's cache, with progress. Raises ModelError that says what to do."""
        return weights.pull(self.system, self.ref)

    @property
    def notice(self) -> str:
        if not self.price_is_known:
            remedy = "set usd_per_million_input and usd_per_million_output, or what it costs is counted nowhere"
            return f"the price of {self.ref.id} at {self.endpoint_url} is not known: {remedy}"
        if (listed := self.listed_price) and self.usd_per_million_input is None:
            return "; ".join(listed.notices(self.ref.id, calendar_day.today()))
        path = self.local_path()
        return weights.notice(path) if path else ""

    @property
    def weights_class(self) -> str:
        """The class in `transformers` for these weights; a family of several chooses by their config."""
        return self.model_class

    def refuse_another_model(self, path: Path) -> None:
        """Refuse weights of another model, which transformers would load as random ones, with a warning."""
        import transformers

        wanted = getattr(transformers, self.weights_class).config_class.model_type
        found = weights.model_type(path)
        if found != wanted:
            instead = f"; {chat_families.right_spec(found, self.ref.id)}" if found else ""
            raise ModelError(f"{self.system}: {path} holds weights of {found!r}, not of {wanted!r}{instead}")

    # --- videos and images ----------------------------------------------------------------------

    def runs_per_frame(self, enrichment: Enrichment, media_kind: MediaKind) -> bool:
        """Of a video regions and tracks are always asked for frame by frame."""
        return media_kind is MediaKind.VIDEO and not (self.supports_video and enrichment.capability.gives_text)

    @property
    def decoded_side(self) -> int | None:
        return self.square_side() if self.reduced_decoding and self._processor is not None else None

    def square_side(self) -> int | None:
        """The side in pixels of the square into which the loaded processor squeezes any image; None: it does not."""
        if not self.squeezes_to_square:
            return None
        size = self._processor.image_processor.size
        return int(max(size["height"], size["width"]))

    def sent_size(self, size: Size) -> Size:
        """The width and height at which an image of this size is sent to an endpoint."""
        return fit_within(size, _LONGEST_SENT)

    def prompt_length(self, media: Media) -> float:
        """How long a medium makes a prompt, in any unit; never raises."""
        frames = len(media.frames) if isinstance(media, DecodedVideo) else 1
        return float(frames * media.width * media.height)

    # --- hooks of the engines that hold the weights ---------------------------------------------

    def load_processor(self, path: Path) -> Any:
        """The processor that belongs to the weights."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(path, trust_remote_code=False, local_files_only=True)

    def on_loaded(self, processor: Any, config: Any) -> None:
        """Called once the weights, or the processor alone (`config` is then None), are in memory."""
        self._processor, self._config = processor, config

    def batch_generator(self, weights: LoadedWeights) -> BatchGenerator | None:
        """How these weights run batch by batch; None: through the chat template."""
        return None

    def processor_overrides(self, media: Media | None) -> dict[str, Any]:
        """What the processor does otherwise than its files say, as keywords for another of its kind: about these
        media, or about any.
        """
        return {}

    def texts(self, batch: Sequence[GenerationRequest]) -> list[str]:
        """The words of each prompt as the model was trained to read them, a placeholder for the media."""
        chats = []
        for each in batch:
            content = [{"type": each.request.media.kind.value}, {"type": "text", "text": each.prompt.text}]
            chats.append([{"role": "user", "content": content}])
        template = self._processor.apply_chat_template
        return [str(template(chat, add_generation_prompt=True, **self.template_settings)) for chat in chats]

    @property
    def template_settings(self) -> dict[str, Any]:
        """What the chat template is told besides the words; nothing, unless overridden."""
        return {}

    def templated(self, batch: Sequence[GenerationRequest]) -> tuple[list[str], bool]:
        """The words of each prompt, and whether the tokenizer is to write the first token before them.

        Raises ValueError if a prompt holds what stands for the media.
        """
        for each in batch:
            for token in self.placeholders():
                if token in each.prompt.text:
                    raise ValueError(f"the prompt holds {token!r}, which stands for the media; word it differently")
        texts = self.texts(batch)
        begin = self._processor.tokenizer.bos_token
        # Some templates write the first token themselves; it must not stand there twice.
        return texts, not (begin and texts[0].startswith(begin))

    def prompt_tokens(self, each: GenerationRequest) -> list[int]:
        """The words as tokens, in which one placeholder stands for the media, however many tokens they will be."""
        (text,), add_special_tokens = self.templated([each])
        return list(self._processor.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def media_inputs(self, batch: Sequence[GenerationRequest]) -> dict[str, Any]:
        """The processor's arguments for the media of a batch, in its order: images, unless overridden."""
        return {"images": [image_of(each) for each in batch]}

    def finish_inputs(self, inputs: Any) -> None:
        """Change what the processor made of a batch, in place; nothing, unless overridden."""

    def placeholders(self) -> list[str]:
        """The tokens that stand for an image or a video in the words of a prompt."""
        names = ("image_token", "video_token")
        return [str(token) for name in names if (token := getattr(self._processor, name, None))]

    # --- the fingerprint ------------------------------------------------------------------------

    def generation_settings(self) -> dict[str, Any]:
        settings = super().generation_settings()
        if self.dtype != "auto":
            settings["dtype"] = self.dtype
        return settings | {"reduced_decoding": True} if self.reduced_decoding else settings


def image_of(each: GenerationRequest) -> Any:
    """The image that a prompt is about. Raises ReplyError with cause `unsupported` if it is about a whole video."""
    if not isinstance(each.request.media, DecodedImage):
        raise ReplyError("an image was expected and this is a video", Cause.UNSUPPORTED)
    return each.request.media.pixels
