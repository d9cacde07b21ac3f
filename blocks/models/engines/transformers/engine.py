"""Weights on transformers' own classes, in this process: loaded once, asked in batches that memory can hold."""

from __future__ import annotations

import gc
import hashlib
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from sightflow.blocks.models.contract import (
    LEAST_OBJECTS,
    Availability,
    BatchGenerator,
    Engine,
    GenerationRequest,
    Incomplete,
    LoadedWeights,
    Output,
    ReplyError,
)
from sightflow.blocks.models.engines.bisection import bisect_failures
from sightflow.blocks.models.engines.transformers.batch_size import (
    FIRST,
    BatchSize,
    CudaMeter,
    MemoryMeter,
    batch_size_file,
)
from sightflow.blocks.models.engines.transformers.chat_generation import ChatGenerator, ChatSystem
from sightflow.blocks.models.engines.transformers.cpu_threads import chosen_threads, cpu_threads
from sightflow.blocks.models.engines.transformers.device import (
    device_name,
    free_memory,
    is_device_lost,
    is_out_of_memory,
    resolve_device,
)
from sightflow.blocks.models.engines.transformers.loaded_weights import TransformersWeights
from sightflow.blocks.models.engines.transformers.replicas import Replicas
from sightflow.blocks.models.reply_forms import Choices, Grammar, JsonSchema, Regex
from sightflow.blocks.models.weights import count_numbers, local_path, weights_availability, weights_digest
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.media import Media
from sightflow.schemas.vision import ModelRef

_GIB = 2**30
_MOST_REPLICAS = 8  # Python's lock lets few more compute at once


class TransformersSystem(ChatSystem, Protocol):
    """What this engine asks of a system: its settings and its hooks."""

    @property
    def system(self) -> str: ...
    @property
    def ref(self) -> ModelRef: ...
    @property
    def weights_class(self) -> str: ...
    @property
    def default(self) -> ModelRef: ...
    @property
    def memory_gib(self) -> float: ...

    device: str
    dtype: str
    attention: str
    placement: str
    batch_size: int | str
    threads: int | None
    enforce_reply_form: bool

    def recipe(self, enrichment: Enrichment, media_kind: MediaKind) -> str: ...
    def refuse_another_model(self, path: Path) -> None: ...
    def load_processor(self, path: Path) -> Any: ...
    def on_loaded(self, processor: Any, config: Any) -> None: ...
    def prompt_length(self, media: Media) -> float: ...
    def batch_generator(self, weights: LoadedWeights) -> BatchGenerator | None: ...


class TransformersEngine(Engine):
    """One model on one device: safetensors only, no remote code, pinned revision, greedy decoding.

    A batch is preprocessed while another is on the device. A batch that fails is halved until the request to blame
    stands alone.
    """

    enforced_forms = (Choices, JsonSchema, Regex, Grammar)
    forms_of_old_recipes = (Choices,)

    def __init__(self, system: TransformersSystem) -> None:
        self._system = system
        self._loading = threading.Lock()
        self._preprocessing = threading.Lock()
        self._sizes: dict[str, BatchSize] = {}
        self._replicas: Replicas | None = None
        self.weights: TransformersWeights | None = None
        self.generator: BatchGenerator | None = None

    # --- what it says of itself -----------------------------------------------------------------

    @property
    def max_calls(self) -> int:
        # While a batch is computed by each replica, another is preprocessed.
        return 1 + (self._replicas.count if self._replicas else 1)

    @property
    def preferred_objects(self) -> int:
        largest = max((size.now for size in self._sizes.values()), default=self._first_size())
        # Two batches, which are sorted by length; one where pixels lie in the same memory as the model.
        return max(LEAST_OBJECTS, largest if self.memory_meter() is None else 2 * largest)

    def availability(self) -> Availability:
        return weights_availability(self._system.system, self._system.ref, self._system.default)

    def weights_digest(self) -> str:
        return weights_digest(self._system.ref)

    # --- loading --------------------------------------------------------------------------------

    def load(self) -> None:
        with self._loading:
            if self.weights is None:
                self.adopt(*self._loaded())

    def adopt(self, model: Any, processor: Any) -> None:
        """Compute with a torch module and a processor that are in memory already."""
        system = self._system
        system.on_loaded(processor, model.config)
        weights = TransformersWeights(model, processor, self._preprocessing, system.enforce_reply_form)
        copies = [weights, *(weights.replica() for _ in range(1, self._batches_at_once()))]
        generators = [system.batch_generator(each) or ChatGenerator(system, each) for each in copies]
        self.generator, self._replicas, self.weights = generators[0], Replicas(generators), weights

    def _loaded(self) -> tuple[Any, Any]:
        system = self._system
        available, path = self.availability(), local_path(system.ref)
        if not available.usable or path is None:
            raise ModelError(available.refusal(system.system))
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        device = resolve_device(system.device)
        automatic = torch.bfloat16 if device.startswith("cuda") else torch.float32
        dtype = automatic if system.dtype == "auto" else getattr(torch, system.dtype)
        self._refuse_what_does_not_fit(path, device, dtype.itemsize)
        system.refuse_another_model(path)
        placed = {"device_map": "auto"} if system.placement == "accelerate" else {}
        try:
            model, loading = getattr(transformers, system.weights_class).from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=None if system.attention == "auto" else system.attention,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **placed,
            )
            processor = system.load_processor(path)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"{system.system}: the weights in {path} cannot be loaded as {system.weights_class}: {error}"
            ) from None
        if missing := sorted(loading["missing_keys"]):
            # transformers would fill them with random numbers and go on.
            raise ModelError(f"{system.system}: {path} lacks {len(missing)} of the weights, e.g. {missing[0]}")
        return (model if placed else model.to(device)).eval(), processor

    def memory_needed(self, path: Path, bytes_a_number: int) -> float:
        """GiB that the weights in a folder need: as declared for the default ones, else their numbers and a fifth."""
        system = self._system
        if system.ref.id == system.default.id:
            return system.memory_gib * bytes_a_number / 2
        return count_numbers(path) * bytes_a_number * 1.2 / _GIB

    def _refuse_what_does_not_fit(self, path: Path, device: str, bytes_a_number: int) -> None:
        free = free_memory(device)
        if free is None or self._system.placement == "accelerate":
            return
        needed = self.memory_needed(path, bytes_a_number)
        if needed > free:
            raise ModelError(
                f"{self._system.system}: {self._system.ref.id} needs about {needed:.1f} GiB in "
                f"{8 * bytes_a_number}-bit numbers and {device} has {free:.1f} GiB free; set placement: accelerate, a "
                "smaller id or another device"
            )

    def _batches_at_once(self) -> int:
        """One on a GPU; on the CPU as many as there are cores for, if it is said how many one takes."""
        threads, placement = self._system.threads, self._system.placement
        if threads is None or placement == "accelerate" or not resolve_device(self._system.device).startswith("cpu"):
            return 1
        return min(max(chosen_threads() // threads, 1), _MOST_REPLICAS)

    # --- generating -----------------------------------------------------------------------------

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        self.load()
        assert self._replicas is not None
        outputs: dict[int, Output] = {}
        groups = self._by_object(requests)
        with self._preprocessing:
            size = self._size_for(requests)
        while groups:
            now = size.now  # another thread may change it
            chosen, groups = groups[:now], groups[now:]
            indices = [index for group in chosen for index in group]
            batch = [requests[index] for index in indices]
            inputs = self._preprocessed(batch)
            with self._replicas.one() as generator:
                size.begin()
                try:
                    made = self._generate(generator, batch, size, inputs)
                except Incomplete as stopped:
                    done: dict[int, Output | None] = {**outputs, **dict(zip(indices, stopped.done, strict=True))}
                    raise Incomplete(str(stopped), [done.get(index) for index in range(len(requests))]) from None
                culprit = any(isinstance(each, Failure) and each.cause is Cause.OUT_OF_MEMORY for each in made)
                size.end(len(chosen), culprit)
            outputs.update(zip(indices, made, strict=True))
        return [outputs[index] for index in range(len(requests))]

    def _by_object(self, requests: Sequence[GenerationRequest]) -> list[list[int]]:
        """Indices of requests, by object (what is asked of one stays in one batch, where it is encoded once): those of
        similar length beside each other (little padding), the longest first (what does not fit shows at once).
        """
        by_object: dict[int, list[int]] = {}
        for index, each in enumerate(requests):
            by_object.setdefault(id(each.request.media), []).append(index)
        media = {key: requests[indices[0]].request.media for key, indices in by_object.items()}
        lengths = {key: self._system.prompt_length(each) for key, each in media.items()}
        return [by_object[key] for key in sorted(by_object, key=lambda key: -lengths[key])]

    def _preprocessed(self, batch: Sequence[GenerationRequest]) -> Any:
        """What the processor makes of a batch, or None: then it is tried anew where a failure is dealt with."""
        assert self.generator is not None
        with self._preprocessing, suppress(Exception):
            return self.generator.preprocess(batch)

    def _generate(
        self, generator: BatchGenerator, batch: Sequence[GenerationRequest], size: BatchSize, inputs: Any
    ) -> list[Output]:
        import torch

        ready = [inputs]  # of the whole batch; its halves are preprocessed anew

        def attempt(part: Sequence[GenerationRequest]) -> list[Output]:
            assert self.generator is not None
            given = ready.pop() if ready else None
            if given is None:
                with self._preprocessing:
                    given = self.generator.preprocess(part)
            with torch.inference_mode(), cpu_threads(self._system.threads):
                return list(generator.generate(part, given))

        def to_failure(error: Exception, part: Sequence[GenerationRequest]) -> Failure:
            message = f"{type(error).__name__}: {error}"[:500]
            if is_out_of_memory(error):
                return Failure(Cause.OUT_OF_MEMORY, f"alone in its batch, and still: {message}")
            if is_device_lost(error):
                raise ModelError(
                    f"{self._system.system}: the device cannot be used any more by this process: {message}"
                )
            return Failure(error.cause if isinstance(error, ReplyError) else Cause.MODEL, message)

        def after_failure(failure: Failure, part: Sequence[GenerationRequest]) -> None:
            if failure.cause is Cause.OUT_OF_MEMORY:
                size.failed(_objects(part))
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

        return bisect_failures(batch, attempt, to_failure, lambda part: size.allows(_objects(part)), after_failure)

    # --- the size of batches --------------------------------------------------------------------

    def memory_meter(self) -> MemoryMeter | None:
        """What says how much memory a batch takes, where somebody can."""
        device = resolve_device(self._system.device)
        return CudaMeter(device) if device.startswith("cuda") and self._system.placement == "device" else None

    def _first_size(self) -> int:
        size = self._system.batch_size
        return size if isinstance(size, int) else FIRST

    def _size_for(self, requests: Sequence[GenerationRequest]) -> BatchSize:
        """The size of batches for what is asked here: found once for these weights, this device and these questions."""
        system = self._system
        questions = {_question(each): each.request for each in requests}
        key = f"{system.batch_size} {sorted(questions)}"
        if key not in self._sizes:
            meter = self.memory_meter() if system.batch_size == "auto" else None
            if meter is None:
                self._sizes[key] = BatchSize(self._first_size())
            else:
                recipes = sorted(
                    system.recipe(r.enrichment, r.media.kind) for r in questions.values()
                )  # with the weights
                parts = json.dumps([*recipes, system.attention, system.dtype])
                name = f"{device_name(resolve_device(system.device))} {hashlib.sha256(parts.encode()).hexdigest()[:16]}"
                self._sizes[key] = BatchSize(self._first_size(), meter, batch_size_file(), name)
        return self._sizes[key]


def _question(each: GenerationRequest) -> str:
    request = each.request
    return f"{request.media.kind} {request.enrichment.capability} {request.enrichment.parameters}"


def _objects(batch: Sequence[GenerationRequest]) -> int:
    return len({id(each.request.media) for each in batch})
