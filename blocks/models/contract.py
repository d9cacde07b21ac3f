"""What a system and an engine exchange: prompts with the form of their replies, and what was generated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from sightflow.blocks.models.reply_forms import Choices, FreeText, ReplyForm, enforcement
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.vision import Usage, VisionRequest

ENDPOINT_KEY_VARIABLE = "SIGHTFLOW_ENDPOINT_KEY"
"""The environment variable that may hold the key of an endpoint."""
LEAST_OBJECTS = 16
"""Objects that one call of an engine is given at least, however small its batches are."""


@dataclass(frozen=True)
class Availability:
    """Whether a model can be used here and now; if not, why, and what to do about it."""

    usable: bool
    why: str
    remedy: str = ""

    def refusal(self, system: str) -> str:
        """The message of the error that a system which is not usable is refused with."""
        return f"{system}: {self.why}; {self.remedy}"


@dataclass(frozen=True)
class Prompt:
    """One question put to the model; an enrichment may need several (one a label, say).

    `subject` is the label or phrase it is about. `max_new_tokens`: the longest reply, in tokens.
    """

    text: str
    subject: str | None = None
    reply_form: ReplyForm = field(default_factory=FreeText)
    max_new_tokens: int = 256

    @property
    def choices(self) -> tuple[str, ...]:
        """The only answers allowed; empty where any is."""
        return self.reply_form.options if isinstance(self.reply_form, Choices) else ()


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt about one media object: what a batch is made of."""

    request: VisionRequest
    prompt: Prompt


@dataclass(frozen=True)
class Generated:
    """What the model replied to one prompt.

    `room`: the tokens that the model's positions left for the reply, where they are fewer than were asked for.
    `served_id`: the model that the provider says answered. `transcript`: every reply that was given to this prompt, if
    it was asked again; empty, only `text`.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    truncated: bool = False
    room: int | None = None
    served_id: str | None = None
    attempts: int = 1
    transcript: tuple[str, ...] = ()


@dataclass(frozen=True)
class BilledFailure(Failure):
    """A failure after tokens were spent: what was replied all the same, and what it cost."""

    usage: Usage = field(default_factory=Usage)
    served_id: str | None = None
    transcript: tuple[str, ...] = ()


Output = Generated | Failure
"""What comes of one generation request."""


class ReplyError(ValueError):
    """A model's reply that cannot become a result; `cause` is its class in the quarantine."""

    def __init__(self, message: str, cause: Cause = Cause.MALFORMED) -> None:
        super().__init__(message)
        self.cause = cause


class Incomplete(ModelError):
    """What concerns every item was met in the midst of them. `done`: what was made of each until then, in order; None
    for an item that is still to be asked about.
    """

    def __init__(self, message: str, done: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.done = list(done)


class Engine(ABC):
    """Who computes for a model: transformers or vLLM in this process, an endpoint, a vendor's SDK.

    An engine is made from the settings of one model, holds its connection or weights, and knows neither capabilities
    nor catalogs.
    """

    @property
    def is_remote(self) -> bool:
        """Whether media leave for another's machine."""
        return False

    @property
    def max_calls(self) -> int | None:
        """How many calls of `generate` may be under way at once, in threads; None: any number."""
        return 1

    @property
    def preferred_objects(self) -> int:
        """How many objects one call of `generate` is best given; as many are in memory as pixels, twice."""
        return LEAST_OBJECTS

    is_metered: ClassVar[bool] = False
    """Whether what its requests cost is held before they are sent, and settled after (see `metering`)."""

    @staticmethod
    def settings_problem(system: Any) -> str | None:
        """Why a system's settings cannot go with this engine, or None."""
        return None

    enforced_forms: ClassVar[tuple[type[ReplyForm], ...]] = ()
    """The forms of replies that it holds the model to."""
    forms_of_old_recipes: ClassVar[tuple[type[ReplyForm], ...]] = ()
    """Those among them that were enforced before recipes told of it: of these a recipe tells only that they are not."""

    def enforcement(self, prompts: Sequence[Prompt], off: bool) -> dict[str, Any]:
        """What a recipe tells of how the replies to these prompts are held to their forms."""
        forms = [prompt.reply_form for prompt in prompts]
        return enforcement(forms, self.enforced_forms, self.forms_of_old_recipes, off)

    @abstractmethod
    def availability(self) -> Availability:
        """Whether it could compute here and now, without loading weights or spending anything."""

    def load(self) -> None:  # noqa: B027 - nothing to load is a valid engine
        """Load or connect, once; a second call does nothing. Raises ModelError."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        """One output a request, in order.

        Raises ModelError for what concerns every request; `Incomplete` if it has outputs for some of them.
        """

    @abstractmethod
    def weights_digest(self) -> str:
        """What identifies the weights in a fingerprint, `NAME@REVISION`."""

    def fingerprint_parts(self) -> dict[str, Any]:
        """The settings of the engine that change a reply."""
        return {}


class BatchGenerator(Protocol):
    """How a family of models runs on loaded weights, batch by batch."""

    def preprocess(self, batch: Sequence[GenerationRequest]) -> Any:
        """What the processor makes of a batch, in the host's memory.

        Called in one thread at a time, while another batch may be on the device.
        """

    def generate(self, batch: Sequence[GenerationRequest], inputs: Any) -> list[Generated]:
        """One forward pass over what `preprocess` made of the batch: the reply to each request, in order."""


class LoadedWeights(Protocol):
    """The weights of one model in memory, as a `BatchGenerator` is given them."""

    model: Any
    """The torch module, on its device."""
    processor: Any
    """transformers' processor, for one thread at a time."""

    @property
    def tokenizer(self) -> Any:
        """A copy of the processor's tokenizer, for the thread that is on the device."""

    def tokenize_choices(self, choices: Sequence[str]) -> list[list[int]]:
        """The token ids of each choice, with the end after them."""

    def reply_limits(self, batch: Sequence[GenerationRequest], prompt_lengths: Sequence[int]) -> list[int]:
        """The most tokens that each reply may have: as its prompt says, or as its own prompt, of so many tokens, leaves
        positions. Raises ReplyError with cause `too_large` if a prompt by itself does not fit.
        """

    def reply_processors(self, batch: Sequence[GenerationRequest], prompt_length: int) -> Any:
        """The argument `logits_processor` of transformers' `generate` that holds each reply to its form; None where no
        request has one. `prompt_length`: tokens before the reply, 0 for encoder-decoders.
        """
