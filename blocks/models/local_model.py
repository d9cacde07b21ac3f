"""What the local (transformers) systems share: batching, and splitting on out-of-memory."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import threading
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, model_validator

from sightflow.blocks.models.engines.providers.image_encoding import fit_within
from sightflow.blocks.models.engines.providers.openai_endpoint import KEY_VARIABLE, EndpointEngine, is_private_endpoint
from sightflow.blocks.models.engines.transformers.batch_size import (
    FIRST,
    BatchSize,
    CudaMeter,
    MemoryMeter,
    is_out_of_memory,
    kept_sizes,
)
from sightflow.blocks.models.engines.transformers.choice_constraint import AllowedTokens, within_choices
from sightflow.blocks.models.engines.transformers.cpu_threads import chosen_threads, cpu_threads
from sightflow.blocks.models.engines.transformers.replicas import Replicas, same_weights
from sightflow.blocks.models.engines.vllm import VllmEngine
from sightflow.blocks.models.video.frame_by_frame import asked_of_a_frame, frame_requests, gather
from sightflow.blocks.models.vision_model import Availability, Generated, Prompt, ReplyError, video_of
from sightflow.blocks.models.weights import LocalWeights, device_name
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.media import DecodedVideo, Media
from sightflow.schemas.spec import ServerAddress
from sightflow.schemas.vision import VisionReply, VisionRequest

_LONGEST_SENT = 2048
_MOST_REPLICAS = 8  # Python's lock lets few more compute at once


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt about one media object: what a batch is made of."""

    request: VisionRequest
    prompt: Prompt


class LocalVisionModel(LocalWeights):
    """A model with open weights. It runs in this process on transformers' own classes: safetensors only, no remote
    code, pinned revision, greedy decoding; or, by `engine: endpoint`, in a server that speaks OpenAI's protocol; or,
    by `engine: vllm`, in vLLM inside this process.
    """

    supports_video: ClassVar[bool] = False
    """Whether a video's frames are looked at together; if not, one by one."""
    supports_vllm: ClassVar[bool] = False
    """Whether vLLM has a class of its own for these weights."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="Objects a forward pass; auto: 8, on a GPU as many as its memory is seen to hold."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of a batch, of which as many are computed at once as there are cores for; "
        "unset: one batch at a time, on every core.",
    )
    engine: Literal["local", "endpoint", "vllm"] = Field(
        default="local", description="local: transformers; endpoint: served at endpoint_url; vllm: vLLM, in process."
    )
    reduced_decoding: bool = Field(
        default=False, description="JPEGs at reduced scale, where the whole picture is squeezed into a small square."
    )
    endpoint_url: ServerAddress | None = Field(default=None, description="E.g. http://localhost:8000/v1.")
    endpoint_key: SecretStr | None = Field(
        default=None, description=f"Empty: ${KEY_VARIABLE}, if the server wants one."
    )
    endpoint_timeout: float = Field(default=300.0, gt=0, description="Seconds without a byte until a try is given up.")
    max_concurrency: int = Field(
        default=32, ge=1, le=1024, description="Most requests in flight at an endpoint, or at once in vLLM."
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="vllm: most tokens of prompt, media and reply; unset: as the weights allow."
    )
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, description="vllm: its share of the GPU's memory.")

    _endpoint: EndpointEngine | None = PrivateAttr(default=None)
    _sizes: dict[str, BatchSize] = PrivateAttr(default_factory=dict)
    _vllm: VllmEngine | None = PrivateAttr(default=None)
    _tokenizer: Any = PrivateAttr(default=None)
    _making_ready: Any = PrivateAttr(default_factory=threading.Lock)
    _replicas: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_an_endpoint(self) -> Self:
        if self.engine == "endpoint" and not self.endpoint_url:
            raise ValueError("engine: endpoint needs endpoint_url")
        return self

    @model_validator(mode="after")
    def _can_run_in_vllm(self) -> Self:
        if self.engine != "vllm":
            return self
        if not self.supports_vllm:
            others = "engine: local runs it, engine: endpoint asks a server that has it"
            raise ValueError(f"engine: vllm: vLLM has no {self.system}; {others}")
        if self.device not in ("auto", "cuda") or self.placement != "device" or self.attention != "auto":
            raise ValueError("engine: vllm: device, placement and attention are vLLM's own; see CUDA_VISIBLE_DEVICES")
        return self

    # --- what a subclass says -------------------------------------------------------------------

    @abstractmethod
    def preprocess(self, units: Sequence[GenerationRequest]) -> Any:
        """What the processor makes of a batch, in the host's memory. In one thread at a time, while another batch may
        be on the device.
        """

    @abstractmethod
    def generate(self, units: Sequence[GenerationRequest], ready: Any = None) -> list[Generated]:
        """One forward pass over a batch: the reply to each unit, in order. `ready`: what `preprocess` made of it, if
        that has been done.
        """

    @property
    def tokenizer(self) -> Any:
        """A tokenizer for what is on the device; the processor's own, which another thread may be using, cannot be
        used by two.
        """
        if self._tokenizer is None:
            with self._making_ready:
                self._tokenizer = copy.deepcopy(self._processor.tokenizer)
        return self._tokenizer

    def choice_constraint(self, units: Sequence[GenerationRequest], prompt_length: int) -> AllowedTokens | None:
        """A rule for `generate(prefix_allowed_tokens_fn=)` that cannot leave the choices of each unit.

        `prompt_length`: how many tokens stand before the reply (0 for encoder-decoders, whose first
        token is the decoder's start). None when no unit has choices.
        """
        if not any(unit.prompt.choices for unit in units):
            return None
        import torch

        start = prompt_length or 1
        spelled = [self.tokenize_choices(unit.prompt.choices) for unit in units]
        # By the width of the model's output, which is often more than the tokenizer has tokens.
        everything = torch.arange(self._model.config.get_text_config().vocab_size, device=self._model.device)
        return within_choices(spelled, start, self.tokenizer.eos_token_id, everything)

    def tokenize_choices(self, choices: Sequence[str]) -> list[list[int]]:
        """The tokens of each choice, with the end after them."""
        tokenizer = self.tokenizer
        return [[*tokenizer(c, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for c in choices]

    # --- where it runs --------------------------------------------------------------------------

    @property
    def hosted(self) -> bool:  # type: ignore[override]
        """Whether media leave for another's machine: an endpoint on this one or in its private network is local."""
        return self.engine == "endpoint" and not is_private_endpoint(self.endpoint_url or "")

    @property
    def objects_at_once(self) -> int:
        if self.engine != "local":
            return max(super().objects_at_once, 2 * self.max_concurrency)
        asked = FIRST if self.batch_size == "auto" else self.batch_size
        return max(super().objects_at_once, 2 * max((size.now for size in self._sizes.values()), default=asked))

    def availability(self) -> Availability:
        if self.engine == "endpoint":
            return EndpointEngine.of(self).availability()
        if self.engine == "vllm" and not (installed := VllmEngine.of(self).availability()).usable:
            return installed
        return super().availability()

    def prepare(self) -> None:
        if self.engine == "local":
            super().prepare()
            with self._making_ready:
                if self._replicas is None:
                    others = range(1, self._batches_at_once())
                    self._replicas = Replicas([self, *(self._replica() for _ in others)])
        elif self.engine == "vllm":
            self._vllm = self._vllm or VllmEngine.of(self)
            self._vllm.prepare()
        elif self._endpoint is None:
            self._endpoint = EndpointEngine.of(self)
            self._endpoint.prepare()

    def weights_digest(self) -> str:
        if self.engine == "endpoint" and not self.is_folder:  # what is in this machine's cache is not what is served
            return f"{self.ref.id}@{self.ref.revision or ''}"
        return super().weights_digest()

    def generation_settings(self) -> dict[str, Any]:
        settings = super().generation_settings()
        if self.reduced_decoding:
            settings |= {"reduced_decoding": True}
        return settings if self.engine == "local" else settings | {"engine": self.engine}

    @property
    def decoded_side(self) -> int | None:
        return self.square_side() if self.reduced_decoding and self._model is not None else None

    def square_side(self) -> int | None:
        """The side in pixels of the square into which the loaded processor squeezes any picture; None: it does not."""
        return None

    def sent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The width and height at which a picture of this size is sent to an endpoint."""
        return fit_within(size, _LONGEST_SENT)

    @property
    def runs_at_once(self) -> int | None:
        if self.engine == "endpoint":
            return None
        # While a batch is computed by each replica, another is made ready.
        return 1 + (self._replicas.count if self._replicas else 1) if self.engine == "local" else 1

    def _batches_at_once(self) -> int:
        """One on a GPU; on the CPU as many as there are cores for, if it is said how many one takes."""
        if self.threads is None or self.placement == "accelerate" or not self.resolved_device().startswith("cpu"):
            return 1
        return min(max(chosen_threads() // self.threads, 1), _MOST_REPLICAS)

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied._replicas = None  # those compute as the original does
        return copied

    def _replica(self) -> Self:
        """Make a model for another thread: with modules and a tokenizer of its own, and these same weights."""
        replica = self.model_copy()
        replica._model, replica._tokenizer = same_weights(self._model), None
        return replica

    # --- the loop -------------------------------------------------------------------------------

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        self.prepare()
        apart = [self._frames(request) for request in requests]
        asked = [frame for request, frames in zip(requests, apart, strict=True) for frame in frames or [request]]
        said = iter(self._answer(asked))
        replies = []
        for request, frames in zip(requests, apart, strict=True):
            if frames is None:
                replies.append(next(said))
            else:
                replies.append(gather(request, video_of(request), [next(said) for _ in frames]))
        return replies

    def _frames(self, request: VisionRequest) -> list[VisionRequest] | None:
        """The requests about a video's frames, if it is to be taken apart; never an empty list."""
        if not self.runs_per_frame(request.enrichment, request.media.kind):
            return None
        return frame_requests(request, video_of(request))

    def runs_per_frame(self, enrichment: Enrichment, media_kind: MediaKind) -> bool:
        """Whether each frame of a video is asked about alone: always for regions and tracks."""
        return media_kind is MediaKind.VIDEO and not (self.supports_video and enrichment.capability.gives_text)

    def effective_prompts(self, enrichment: Enrichment, media_kind: MediaKind) -> tuple[Prompt, ...]:
        if self.runs_per_frame(enrichment, media_kind):
            return self.prompts(asked_of_a_frame(enrichment), MediaKind.IMAGE)
        return self.prompts(enrichment, media_kind)

    def _answer(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        if self._endpoint is not None:
            return self._endpoint.run(requests)
        if self._vllm is not None:
            return self._vllm.run(requests)
        asked: list[list[Prompt]] = [list(self.prompts(request.enrichment, request.media.kind)) for request in requests]
        units = [GenerationRequest(r, p) for r, prompts in zip(requests, asked, strict=True) for p in prompts]
        said: list[Generated | Failure | None] = [None] * len(units)
        groups = self._groups(units)
        with self._making_ready:
            size = self._size_for(requests)
        while groups:
            now = size.now  # another thread may change it
            batch, groups = groups[:now], groups[now:]
            places = [place for group in batch for place in group]
            together = [units[k] for k in places]
            ready = self._ready(together)
            with self._replicas.one() as replica:
                size.begin()
                heard = replica._generate(together, size, ready)
                size.end(len(batch), any(isinstance(h, Failure) and h.cause is Cause.OUT_OF_MEMORY for h in heard))
            for place, generated in zip(places, heard, strict=True):
                said[place] = generated
        replies, start = [], 0
        for request, prompts in zip(requests, asked, strict=True):
            answers = said[start : start + len(prompts)]
            start += len(prompts)
            pairs = [(p, a) for p, a in zip(prompts, answers, strict=True) if a is not None]
            replies.append(self.reply(request, pairs))
        return replies

    def _groups(self, units: Sequence[GenerationRequest]) -> list[list[int]]:
        """Places of units, by object (what is asked of one stays in one batch, where it is encoded once): those of
        similar length beside each other (little padding), the longest first (what does not fit shows at once).
        """
        by_object: dict[int, list[int]] = {}
        for place, unit in enumerate(units):
            by_object.setdefault(id(unit.request.media), []).append(place)
        lengths = {key: self.length_of(units[places[0]].request.media) for key, places in by_object.items()}
        return [by_object[key] for key in sorted(by_object, key=lambda key: -lengths[key])]

    def length_of(self, media: Media) -> float:
        """How long a medium makes a prompt, in any unit; never raises."""
        frames = len(media.frames) if isinstance(media, DecodedVideo) else 1
        return float(frames * media.width * media.height)

    def memory_meter(self) -> MemoryMeter | None:
        """What says how much memory a batch takes, where somebody can."""
        device = self.resolved_device()
        return CudaMeter(device) if device.startswith("cuda") and self.placement == "device" else None

    def _size_for(self, requests: Sequence[VisionRequest]) -> BatchSize:
        """The size of batches for what is asked here: found once for these weights, this device and these questions."""
        asked = {f"{r.media.kind} {r.enrichment.capability} {r.enrichment.parameters}": r for r in requests}
        key = f"{self.batch_size} {sorted(asked)}"
        if key not in self._sizes:
            first = FIRST if self.batch_size == "auto" else self.batch_size
            meter = self.memory_meter() if self.batch_size == "auto" else None
            if meter is None:
                self._sizes[key] = BatchSize(first)
            else:
                recipes = sorted(self.recipe(r.enrichment, r.media.kind) for r in asked.values())  # with the weights
                digest = hashlib.sha256(json.dumps([*recipes, self.attention, self.dtype]).encode()).hexdigest()[:16]
                where = device_name(self.resolved_device())
                self._sizes[key] = BatchSize(first, meter, kept_sizes(), f"{where} {digest}")
        return self._sizes[key]

    def _ready(self, units: Sequence[GenerationRequest]) -> Any:
        """What `preprocess` makes of a batch, or None: then it is tried anew where a failure is dealt with."""
        with self._making_ready, suppress(Exception):
            return self.preprocess(units)

    def _generate(
        self, units: Sequence[GenerationRequest], size: BatchSize, ready: Any = None
    ) -> list[Generated | Failure]:
        """Generate for a batch; when it fails, halve it until the unit that causes it stands alone."""
        import torch

        half = len(units) // 2
        objects = len({id(unit.request.media) for unit in units})
        if half and not size.allows(objects):
            return self._generate(units[:half], size) + self._generate(units[half:], size)
        try:
            if ready is None:
                with self._making_ready:
                    ready = self.preprocess(units)
            with torch.inference_mode(), cpu_threads(self.threads):
                return list(self.generate(units, ready))
        except Exception as error:
            out_of_memory = is_out_of_memory(error)
            cause = error.cause if isinstance(error, ReplyError) else Cause.MODEL
            message = f"{type(error).__name__}: {error}"[:500]
        # Outside the except clause, so that the traceback no longer keeps the batch's tensors alive.
        ready = None
        if out_of_memory:
            size.failed(objects)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if half:
            return self._generate(units[:half], size) + self._generate(units[half:], size)
        if out_of_memory:
            return [Failure(Cause.OUT_OF_MEMORY, f"alone in its batch, and still: {message}")]
        return [Failure(cause, message)]
