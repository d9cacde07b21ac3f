"""The vision models: requests in, one typed reply a request out, in order. One loop for all of them.

A subclass is one system in one file and holds what is peculiar to it: rating, prompts, parsing, coordinates. An engine
computes; which one, the settings say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, PrivateAttr

from sightflow.blocks.block_links import documentation
from sightflow.blocks.lazy_block import LazyBlock
from sightflow.blocks.models.contract import (
    Availability,
    BilledFailure,
    Engine,
    Generated,
    GenerationRequest,
    Incomplete,
    Output,
    Prompt,
    ReplyError,
)
from sightflow.blocks.models.prices.expenses import Expenses
from sightflow.blocks.models.replies.combine import combine
from sightflow.blocks.models.video.frame_by_frame import (
    ASSOCIATION_VERSION,
    as_frame_enrichment,
    frame_requests,
    merge_frame_replies,
)
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import OUTPUT_SCHEMA_VERSION, Enrichment, FrameSampling, Result
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.geometry import BoxFormat, GeometryError, ImageTransform
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.rating import Rating
from sightflow.schemas.vision import ModelRef, Usage, VisionReply, VisionRequest

_logger = logging.getLogger(__name__)


class VisionModel(Expenses, LazyBlock):
    """A vision-language model that serves some of the capabilities: a system on an engine.

    `run` never raises for one bad item and never returns another item's answer. It raises ModelError only for what
    concerns every item: missing weights, a refused key, a retired model id; `Incomplete` if some have been answered.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    _block_schema_capabilities: ClassVar[list[str]] = ["vision"]
    _documentation_url = documentation("models.md")

    rating: ClassVar[Rating]
    media_kinds: ClassVar[frozenset[MediaKind]] = frozenset({MediaKind.IMAGE})
    box_format: ClassVar[BoxFormat]
    default: ClassVar[ModelRef]
    supports_custom_prompt: ClassVar[bool] = True

    id: str = Field(default="", description="Model id or local folder; empty: the dated default.")
    revision: str | None = Field(default=None, description="Commit, tag or dated snapshot to pin.")
    max_new_tokens: int = Field(default=512, ge=1, description="Longest reply, in tokens.")
    enforce_reply_form: bool = Field(default=True, description="Hold replies to their form while they are written.")

    _called: str = PrivateAttr(default="")
    _engine: Engine | None = PrivateAttr(default=None)
    _opening: Any = PrivateAttr(default_factory=threading.Lock)

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied._engine, copied._opening = None, threading.Lock()  # the copy may have other settings
        return copied

    @classmethod
    def get_code_example(cls) -> str:
        """What Prefect's UI shows of how a saved block is used."""
        rating: Rating | None = getattr(cls, "rating", None)
        used = f"In a spec: `models: {{{rating.system}: {{block: NAME}}}}`" if rating else ""  # this class has none
        opened = f'from sightflow.blocks import {cls.__name__}\n\nmodel = {cls.__name__}.load("NAME")'
        return f"```python\n{opened}\nprint(model.availability())\n```\n{used}"

    @property
    def system(self) -> str:
        return self.rating.system

    @property
    def name_in_spec(self) -> str:
        """The name by which a spec knows this model and a row says who answered; unless given, its system's."""
        return self._called or self.system

    def called(self, name: str) -> Self:
        """Itself, under a name of the user's."""
        self._called = name
        return self

    @property
    def ref(self) -> ModelRef:
        """The model that is configured here, pinned."""
        if not self.id or self.id == self.default.id:
            return replace(self.default, revision=self.revision or self.default.revision)
        return ModelRef(self.id, self.revision)

    # --- the system's part ----------------------------------------------------------------------

    @abstractmethod
    def prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        """The questions that this enrichment needs, the same for every object."""

    def prompts_about(self, requests: Sequence[VisionRequest]) -> Sequence[tuple[Prompt, ...] | Failure]:
        """The questions about each of these objects, or why none can be put."""
        return [self.prompts(request.enrichment, request.media.kind) for request in requests]

    @abstractmethod
    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result:
        """Turn one reply into a result in catalog coordinates. Raises ReplyError or GeometryError."""

    @property
    def notice(self) -> str:
        """What anybody who uses these weights should be told in every plan and run; mostly nothing."""
        return ""

    def unsupported_reason(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        """Why this model cannot serve an enrichment, or None if it can."""
        if self.rating.of(enrichment.capability) == 0:
            return f"{self.system} cannot do {enrichment.capability} (rated 0)"
        if media_kind not in self.media_kinds:
            return f"{self.system} takes no {media_kind}"
        if enrichment.prompt and not self.supports_custom_prompt:
            return f"{self.system} answers fixed tasks and takes no prompt of your own"
        return self.why_no_track_masks(enrichment, media_kind) if enrichment.masks else None

    def why_no_track_masks(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        """Why its tracks can have no masks: those linked from frames have them, if it cuts out what is in a frame."""
        if not self.runs_per_frame(enrichment, media_kind) or self.rating.of(Capability.SEGMENTATION) == 0:
            return f"{self.system} gives no masks of tracks"
        return self.unsupported_reason(as_frame_enrichment(enrichment), MediaKind.IMAGE)

    def runs_per_frame(self, enrichment: Enrichment, media_kind: MediaKind) -> bool:
        """Whether each frame of a video is asked about alone."""
        return False

    def sampling(self, enrichment: Enrichment) -> FrameSampling:
        """Which frames of a video this model is shown for an enrichment: of text 8, evenly spread; of regions one a
        second; of tracks four a second.
        """
        return enrichment.sampling or FrameSampling.usual(enrichment.capability)

    def image_transform(self, request: VisionRequest) -> ImageTransform:
        """How the image the model sees lies over the original; the whole of it unless overridden."""
        return ImageTransform.whole(request.media.width, request.media.height)

    @property
    def longest_frame_side(self) -> int:
        """The longest side, in pixels, that a video's frames are best given with; larger ones are shrunk when read."""
        return 768

    @property
    def decoded_side(self) -> int | None:
        """The shortest side, in pixels, at which an image may be decoded at reduced scale; None: as it is."""
        return None

    # --- the engine's part ----------------------------------------------------------------------

    @property
    def engine_name(self) -> str:
        """Which engine computes, by its name in `engines/factory.py`; none if the model makes one of its own."""
        return ""

    def make_engine(self) -> Engine:
        """The engine that the settings name, not yet loaded."""
        from sightflow.blocks.models.engines.factory import make_engine  # which may need what this module does not

        return make_engine(self.engine_name, self)

    def open_engine(self) -> Engine:
        """The engine of this model, made once; `prepare` loads it."""
        with self._opening:
            if self._engine is None:
                self._engine = self.make_engine()
            return self._engine

    def availability(self) -> Availability:
        """Whether the model could answer here and now, without loading it or spending anything."""
        return self.open_engine().availability()

    def prepare(self) -> None:
        """Load or connect, once; called before the first `run`. Raises ModelError."""
        self.open_engine().load()

    @property
    def hosted(self) -> bool:
        """Whether media leave for another's machine."""
        return self.open_engine().is_remote

    @property
    def objects_at_once(self) -> int:
        """How many objects one call of `run` is best given; as many are in memory as pixels, twice."""
        return self.open_engine().preferred_objects

    @property
    def runs_at_once(self) -> int | None:
        """How many calls of `run` may be under way at once, in threads; None: any number."""
        return self.open_engine().max_calls

    # --- the fingerprint ------------------------------------------------------------------------

    def weights_digest(self) -> str:
        """What identifies the weights in a fingerprint: id and revision, or a digest of a folder."""
        return self.open_engine().weights_digest()

    def generation_settings(self) -> dict[str, Any]:
        """The settings that a reply depends on besides the prompt."""
        return {"max_new_tokens": self.max_new_tokens} | self.open_engine().fingerprint_parts()

    def effective_prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        """The prompts that the engine is given in the end: those of a frame, if each is asked about alone."""
        if self.runs_per_frame(enrichment, media_kind):
            return self.prompts(as_frame_enrichment(enrichment), MediaKind.IMAGE)
        return self.prompts(enrichment, media_kind)

    def recipe(self, enrichment: Enrichment, media_kind: MediaKind) -> str:
        """16 hexadecimal digits over all that determines a result besides the object itself."""
        prompts = self.effective_prompts(enrichment, media_kind)
        ingredients: dict[str, Any] = {
            "capability": enrichment.capability,
            "parameters": enrichment.parameters,
            "media_kind": media_kind,
            "system": self.system,
            "weights": self.weights_digest(),
            "prompts": [[p.text, p.max_new_tokens] for p in prompts],
            "generation": self.generation_settings(),
            "schema": OUTPUT_SCHEMA_VERSION,
        }
        ingredients |= self.open_engine().enforcement(prompts, off=not self.enforce_reply_form)
        if media_kind is MediaKind.VIDEO:
            ingredients["sampling"] = self.sampling(enrichment).model_dump(mode="json")
            if enrichment.capability is Capability.OBJECT_TRACKING and self.runs_per_frame(enrichment, media_kind):
                ingredients["association"] = ASSOCIATION_VERSION
        canonical = json.dumps(ingredients, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    # --- the loop -------------------------------------------------------------------------------

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        """Answer each request, in order: a video that is asked about frame by frame gets one reply all the same.

        Raises `Incomplete`, with a reply for each request that was answered in full, if the engine stops midway.
        """
        self.prepare()
        frames = [self._frames(request) for request in requests]
        singles = [single for request, apart in zip(requests, frames, strict=True) for single in apart or [request]]
        asked = self.prompts_about(singles)
        prompts = [() if isinstance(own, Failure) else own for own in asked]
        batch = [GenerationRequest(s, p) for s, own in zip(singles, prompts, strict=True) for p in own]
        stopped: Incomplete | None = None
        made: Sequence[Output | None]
        try:
            made = self.generate(batch)
        except Incomplete as error:
            made, stopped = error.done, error
        if len(made) != len(batch):
            raise ModelError(f"{self.name_in_spec}: its engine gave {len(made)} outputs for {len(batch)} requests")
        outputs = iter(made)
        given: list[list[tuple[Prompt, Output | None]]]
        given = [[(Prompt(""), o)] if isinstance(o, Failure) else [(p, next(outputs)) for p in o] for o in asked]
        replies = iter([self._reply_if_complete(*each) for each in zip(singles, given, strict=True)])
        merged: list[VisionReply | None] = []
        for request, apart in zip(requests, frames, strict=True):
            if isinstance(request.media, DecodedVideo) and apart is not None:
                complete = [reply for reply in (next(replies) for _ in apart) if reply is not None]
                whole = len(complete) == len(apart)
                merged.append(merge_frame_replies(request, request.media, complete) if whole else None)
            else:
                merged.append(next(replies))
        if stopped:
            raise type(stopped)(str(stopped), merged) from None
        return [reply for reply in merged if reply is not None]

    def generate(self, batch: Sequence[GenerationRequest]) -> Sequence[Output]:
        """One output a request, in order: as the engine makes them. Raises as `Engine.generate` does."""
        return self.open_engine().generate(batch)

    def _reply_if_complete(
        self, request: VisionRequest, outputs: Sequence[tuple[Prompt, Output | None]]
    ) -> VisionReply | None:
        """The reply to a request; None if one of its prompts was not answered."""
        complete = [(prompt, output) for prompt, output in outputs if output is not None]
        return self.reply(request, complete) if len(complete) == len(outputs) else None

    def _frames(self, request: VisionRequest) -> list[VisionRequest] | None:
        """The requests about a video's frames, if it is to be taken apart; never an empty list."""
        media = request.media
        if isinstance(media, DecodedVideo) and self.runs_per_frame(request.enrichment, media.kind):
            return frame_requests(request, media)
        return None

    def reply(self, request: VisionRequest, outputs: Sequence[tuple[Prompt, Output]]) -> VisionReply:
        """Gather what was generated for an enrichment's prompts into its one reply, with all that was spent on it, also
        by what failed; never raises for content.
        """
        usage, texts, results, served = Usage(), list[str](), list[Result](), list[str]()
        failure: Failure | None = None
        for prompt, output in outputs:
            if isinstance(output, Generated | BilledFailure):
                usage += output.usage
                texts += output.transcript or ([output.text] if isinstance(output, Generated) else [])
                served += [output.served_id] if output.served_id else []
            if isinstance(output, Failure):
                failure = failure or output
                continue
            parsed = self._parsed(request, prompt, output)
            if isinstance(parsed, Failure):
                failure = failure or parsed
            else:
                results.append(parsed)
        raw_reply = "\n".join(texts) if texts else None
        outcome: Result | Failure
        if failure is None:
            outcome = combine(request.enrichment, results)
        else:
            attempts = max(output.attempts for _, output in outputs)
            raw = failure.raw_reply or raw_reply
            outcome = Failure(failure.cause, failure.message, failure.stage, attempts, raw)
        model_id = served[0] if served else self.ref.id
        return VisionReply(request.uri, request.enrichment.name, outcome, self.name_in_spec, model_id, raw_reply, usage)

    def _parsed(self, request: VisionRequest, prompt: Prompt, generated: Generated) -> Result | Failure:
        if generated.truncated:
            message = f"the reply reached the limit of {prompt.max_new_tokens} tokens; raise max_new_tokens"
            if generated.room is not None:
                message = f"the model's positions ended after {generated.room} tokens of the reply"
            return Failure(Cause.TRUNCATED, message)
        try:
            return self.parse(request, prompt, generated.text)
        except (ReplyError, GeometryError) as error:
            return Failure(error.cause if isinstance(error, ReplyError) else Cause.MALFORMED, str(error))
        except Exception as error:  # a parser's bug costs the reply that met it, and is written down with its traceback
            _logger.exception("%s: the parser failed on a reply to %s", self.system, request.uri)
            message = f"the reply could not be parsed: {type(error).__name__}: {error}"
            return Failure(Cause.MALFORMED, message[:500])
