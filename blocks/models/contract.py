"""What a system and an engine exchange: prompts with the form of their replies, and what was generated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from sightflow.blocks.models.reply_forms import Choices, FreeText, ReplyForm, enforcement
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
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
    unreadable: str | None = None
    """A reply that was given to it and cannot be read: the model is shown it, and asked once more."""


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


@dataclass(frozen=True)
class BatchLimits:
    """The most that a batch of a vendor's may hold: requests, bytes of its file, bytes of a request's line."""

    requests: int
    file_bytes: int
    line_bytes: int


class RemoteState(StrEnum):
    """How a batch stands at its vendor. All but the first are ends, with results for what was done."""

    RUNNING = "running"
    COMPLETED = "completed"
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as its vendor tells of it: its id there, the ids of the files of results, and what is said of it.

    `name`: our id, under which it was begun; empty where a vendor does not say.
    """

    id: str
    state: RemoteState
    result_files: tuple[str, ...] = ()
    message: str = ""
    name: str = ""


class BatchDeclined(ModelError):
    """A vendor does not take a batch: nothing of it is asked, and nothing is paid."""


class BatchLine(NamedTuple):
    """A request as a line of a batch's file, and what it may cost at most there, US dollars."""

    content: bytes
    most_usd: float


class BatchResult(NamedTuple):
    """What a line of results says: of which request, what came of it, and what that cost, US dollars.

    `output`: None of a request that the vendor never began. `cost_usd`: None if the model may have been run, and nobody
    says for how many tokens.
    """

    custom_id: str
    output: Output | None
    cost_usd: float | None


class BatchDelivery(ABC):
    """A vendor's batch API for one model: lines of requests in a file, lines of results in another, hours later.

    The file of requests is JSON Lines; a line carries an id, by which its result is found. Whatever asks the vendor
    raises ModelError if that fails for good.
    """

    vendor: str
    limits: BatchLimits

    @abstractmethod
    def line(self, custom_id: str, each: GenerationRequest) -> BatchLine:
        """A request as a line of the file, with its end: what a direct request would send, under this id.

        Raises ReplyError if there can be none.
        """

    @abstractmethod
    def result(self, line: bytes, sent_at: datetime | None = None) -> BatchResult | None:
        """What a line of results says, at the batch's price of the day on which it was sent, by default today; None for
        a line that cannot be read.
        """

    @abstractmethod
    def upload(self, file: Path, batch_id: str) -> str:
        """Send a file of requests; return the vendor's id of it. Nothing is asked yet, and nothing paid."""

    @abstractmethod
    def create(self, input_file: str, batch_id: str) -> RemoteBatch:
        """Have the vendor begin, once: where an answer is lost it is looked up before it is said again.

        Raises BatchDeclined if the vendor will not, another ModelError if that cannot be told.
        """

    @abstractmethod
    def find(self, input_file: str | None, batch_id: str) -> RemoteBatch | None:
        """The batch that was begun under this id of ours, if one was."""

    @abstractmethod
    def has_file(self, batch_id: str) -> bool:
        """Whether what was uploaded under this id of ours lies in the account: if not, it may be another's."""

    @abstractmethod
    def look_up(self, vendor_batch: str) -> RemoteBatch | None:
        """How a batch stands; None if the vendor knows none of this id."""

    @abstractmethod
    def download(self, result_file: str, to: Path, most_bytes: int) -> bool:
        """Write a file of results to this disk; False if the vendor has it no more."""

    @abstractmethod
    def cancel(self, vendor_batch: str) -> None:
        """Have the vendor do no more of a batch; what is done is paid, and can be collected."""

    @abstractmethod
    def remove(self, files: Sequence[str], vendor_batch: str | None, batch_id: str = "") -> None:
        """Take a batch's files away from the vendor, and what else is left of it there.

        `batch_id`: given, what was uploaded under it is looked for too: of that nobody has kept the vendor's id.
        """


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

    def batch_problem(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        """Why an enrichment of media of this kind cannot be asked by a batch API here, or None if it can."""
        return "there is no batch API"

    def batch_delivery(self) -> BatchDelivery:
        """The batch API, connected; only where there is no `batch_problem`. Raises ModelError."""
        raise NotImplementedError


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
