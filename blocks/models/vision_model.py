"""The contract of the vision models: requests in, one typed reply a request out, in order.

A subclass is one system in one file and holds only what is peculiar to it: prompts, parsing,
coordinates. `LocalVisionModel` and `HostedVisionModel` own the loops.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field

from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import (
    OUTPUT_SCHEMA_VERSION,
    Enrichment,
    FrameSampling,
    RegionsResult,
    Result,
    TextResult,
    TracksResult,
)
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.geometry import BoxFormat, GeometryError, ImageTransform
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.ratings import Rating
from sightflow.schemas.vision import ModelRef, Usage, VisionReply, VisionRequest


@dataclass(frozen=True)
class Availability:
    """Whether a model can be used here and now; if not, why, and what to do about it."""

    usable: bool
    why: str
    remedy: str = ""


@dataclass(frozen=True)
class Prompt:
    """One question put to the model; an enrichment may need several (one a label, say).

    `subject` is the label or phrase it is about. `choices`, if any, are the only answers allowed.
    """

    text: str
    subject: str | None = None
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Generated:
    """What the model said to one prompt."""

    text: str
    usage: Usage = field(default_factory=Usage)
    truncated: bool = False
    served_id: str | None = None


class ReplyError(ValueError):
    """A model's reply that cannot become a result; `cause` is its class in the quarantine."""

    def __init__(self, message: str, cause: Cause = Cause.MALFORMED) -> None:
        super().__init__(message)
        self.cause = cause


class VisionModel(Block):
    """A vision-language model that serves some of the capabilities.

    `run` never raises for one bad item and never returns another item's answer. It raises ModelError
    only for what concerns every item: missing weights, a refused key, a retired model id.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    _block_schema_capabilities: ClassVar[list[str]] = ["vision"]

    rating: ClassVar[Rating]
    media_kinds: ClassVar[frozenset[MediaKind]] = frozenset({MediaKind.IMAGE})
    box_format: ClassVar[BoxFormat]
    hosted: ClassVar[bool]
    default: ClassVar[ModelRef]
    supports_custom_prompt: ClassVar[bool] = True

    id: str = Field(default="", description="Model id or local folder; empty: the dated default.")
    revision: str | None = Field(default=None, description="Commit, tag or dated snapshot to pin.")
    max_new_tokens: int = Field(default=512, ge=1, description="Longest reply, in tokens.")

    @property
    def system(self) -> str:
        return self.rating.system

    @property
    def ref(self) -> ModelRef:
        """The model that is configured here, pinned."""
        if not self.id or self.id == self.default.id:
            return ModelRef(
                self.default.id,
                self.revision or self.default.revision,
                self.default.licence,
                self.default.commercial_use,
            )
        return ModelRef(self.id, self.revision)

    @abstractmethod
    def availability(self) -> Availability:
        """Whether the model could answer here and now, without loading it or spending anything."""

    @abstractmethod
    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        """Answer each request, in order."""

    @abstractmethod
    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        """The questions that this enrichment needs, the same for every object."""

    @abstractmethod
    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        """Turn one reply into a result in catalog coordinates. Raises ReplyError or GeometryError."""

    @property
    def notice(self) -> str:
        """What anybody who uses these weights should be told in every plan and run; mostly nothing."""
        return ""

    @property
    def objects_at_once(self) -> int:
        """How many objects one call of `run` is best given; as many are in memory as pixels, twice."""
        return 16

    @property
    def decoded_side(self) -> int | None:
        """The shortest side, in pixels, at which a picture may be decoded at reduced scale; None: as it is."""
        return None

    @property
    def runs_at_once(self) -> int | None:
        """How many calls of `run` may be under way at once, in threads; None: any number."""
        return None if self.hosted else 1

    def prepare(self) -> None:
        """Load or connect, once; called before the first `run`. Raises ModelError."""

    def unsupported_reason(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        """Why this model cannot serve an enrichment, or None if it can."""
        if not self.rating.of(enrichment.capability):
            return f"{self.system} cannot do {enrichment.capability} (rated 0)"
        if media_kind not in self.media_kinds:
            return f"{self.system} takes no {media_kind}"
        if enrichment.prompt and not self.supports_custom_prompt:
            return f"{self.system} answers fixed tasks and takes no prompt of your own"
        return None

    def price_per_item(self, enrichment: Enrichment, media_kind: MediaKind) -> float:
        """The expected price of one item in US dollars; local models cost nothing here."""
        return 0.0

    def sampling(self, enrichment: Enrichment) -> FrameSampling:
        """Which frames of a video this model is shown for an enrichment: of text 8, evenly spread; of regions one a
        second; of tracks four a second.
        """
        if enrichment.sampling is not None:
            return enrichment.sampling
        if enrichment.capability.gives_text:
            return FrameSampling(frames=8)
        return FrameSampling(fps=4 if enrichment.capability is Capability.OBJECT_TRACKING else 1)

    @property
    def longest_frame_side(self) -> int:
        """The longest side, in pixels, that a video's frames are best given with; larger ones are shrunk when read."""
        return 768

    def weights_digest(self) -> str:
        """What identifies the weights in a fingerprint: the id and revision."""
        return f"{self.ref.id}@{self.ref.revision or ''}"

    def generation_settings(self) -> dict[str, Any]:
        """The settings that a reply depends on besides the prompt."""
        return {"max_new_tokens": self.max_new_tokens}

    def effective_prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        """The prompts that are put in the end: `prompts`, unless a video is taken apart into its frames."""
        return self.prompts(enrichment, media_kind)

    def recipe(self, enrichment: Enrichment, media_kind: MediaKind) -> str:
        """16 hexadecimal digits over all that determines a result besides the object itself."""
        ingredients: dict[str, Any] = {
            "capability": enrichment.capability,
            "parameters": enrichment.parameters,
            "media_kind": media_kind,
            "system": self.system,
            "weights": self.weights_digest(),
            "prompts": [[p.text, p.max_new_tokens] for p in self.effective_prompts(enrichment, media_kind)],
            "generation": self.generation_settings(),
            "schema": OUTPUT_SCHEMA_VERSION,
        }
        if media_kind is MediaKind.VIDEO:
            ingredients["sampling"] = self.sampling(enrichment).model_dump(mode="json")
        canonical = json.dumps(ingredients, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        """How the picture the model sees lies over the original; the whole of it unless overridden."""
        return ImageTransform.whole(request.media.width, request.media.height)

    def reply(self, request: VisionRequest, said: Sequence[tuple[Prompt, Generated | Failure]]) -> VisionReply:
        """Gather what was said to an enrichment's prompts into its one reply; never raises for content."""
        usage = Usage()
        raw: list[str] = []
        results: list[Result] = []
        failure: Failure | None = None
        served_id = self.ref.id
        for prompt, generated in said:
            if isinstance(generated, Failure):
                failure = failure or generated
                continue
            usage += generated.usage
            raw.append(generated.text)
            served_id = generated.served_id or served_id
            if generated.truncated:
                failure = failure or Failure(
                    Cause.TRUNCATED,
                    f"the reply reached the limit of {prompt.max_new_tokens} tokens; raise max_new_tokens",
                )
                continue
            try:
                results.append(self.parse(request, prompt, generated.text))
            except ReplyError as error:
                failure = failure or Failure(error.cause, str(error))
            except GeometryError as error:
                failure = failure or Failure(Cause.MALFORMED, str(error))
            except Exception as error:  # a hostile reply must cost its own item and nothing else
                message = f"the reply could not be parsed: {type(error).__name__}: {error}"
                failure = failure or Failure(Cause.MALFORMED, message[:500])
        raw_reply = "\n".join(raw) if raw else None
        outcome: Result | Failure
        if failure is not None:
            outcome = Failure(
                failure.cause,
                failure.message,
                failure.stage,
                failure.attempts,
                failure.raw_reply or raw_reply,
            )
        else:
            outcome = combine(request.enrichment, results)
        return VisionReply(request.uri, request.enrichment.name, outcome, self.system, served_id, raw_reply, usage)


def combine(enrichment: Enrichment, results: Sequence[Result]) -> Result:
    """The results of an enrichment's prompts as one: regions and tracks are joined, text stands alone."""
    if enrichment.capability.gives_text:
        (only,) = results
        return only
    if enrichment.capability is Capability.OBJECT_TRACKING:
        return TracksResult(tuple(t for r in results if isinstance(r, TracksResult) for t in r.tracks))
    return RegionsResult(tuple(g for r in results if isinstance(r, RegionsResult) for g in r.regions))


def video_of(request: VisionRequest) -> DecodedVideo:
    """The request's video; raises ReplyError with cause `unsupported` if it is an image."""
    if not isinstance(request.media, DecodedVideo):
        raise ReplyError("a video was expected and this is an image", Cause.UNSUPPORTED)
    return request.media


def plain_text(text: str, choices: Sequence[str] = ()) -> TextResult:
    """A reply as text; with choices, matched to one of them without regard to case and punctuation.

    Raises ReplyError if it is empty, or matches none of the choices.
    """
    said = text.strip()
    if not said:
        raise ReplyError("the reply is empty")
    if not choices or said in choices:
        return TextResult(said)
    bare = said.strip(" .!\"'`").casefold()
    for choice in choices:
        if choice.strip().casefold() == bare:
            return TextResult(choice)
    raise ReplyError(f"the answer {said[:80]!r} is none of the choices {list(choices)}")
