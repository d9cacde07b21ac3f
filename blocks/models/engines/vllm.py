"""A local system in vLLM (https://docs.vllm.ai) inside this process: many prompts in flight, prefixes computed once.

The system words the prompts, reads the replies and knows the coordinates. The settings of its processor
go along, so that vLLM's, which resizes the media, shows the model the pixels that `engine: local` would show it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sightflow.blocks.extras import install_command
from sightflow.blocks.models.contract import (
    LEAST_OBJECTS,
    Availability,
    Engine,
    Generated,
    GenerationRequest,
    Incomplete,
    Output,
    ReplyError,
)
from sightflow.blocks.models.engines.bisection import bisect_failures
from sightflow.blocks.models.engines.transformers.device import resolve_device
from sightflow.blocks.models.engines.vllm_start import FAILED_STARTS, LOG, cache_on_cpu, installed_build
from sightflow.blocks.models.replies.answer import marks_thinking
from sightflow.blocks.models.reply_forms import Choices, JsonSchema, Regex, described
from sightflow.blocks.models.weights import local_path, weights_availability, weights_digest
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.media import DecodedImage, Media
from sightflow.schemas.vision import ModelRef, Usage

_logger = logging.getLogger(__name__)
_OTHERWISE = "set engine: local, or engine: endpoint for a server elsewhere"


class VllmSystem(Protocol):
    """What this engine asks of a system: its settings and its hooks."""

    @property
    def system(self) -> str: ...
    @property
    def ref(self) -> ModelRef: ...
    @property
    def default(self) -> ModelRef: ...
    @property
    def supports_video(self) -> bool: ...
    @property
    def supports_vllm(self) -> bool: ...
    @property
    def media_kinds(self) -> frozenset[MediaKind]: ...
    @property
    def model_fields_set(self) -> set[str]: ...

    device: str
    dtype: str
    attention: str
    placement: str
    max_concurrency: int
    max_model_len: int | None
    gpu_memory_utilization: float
    enforce_reply_form: bool

    def refuse_another_model(self, path: Path) -> None: ...
    def load_processor(self, path: Path) -> Any: ...
    def on_loaded(self, processor: Any, config: Any) -> None: ...
    def prompt_tokens(self, each: GenerationRequest) -> list[int]: ...
    def media_inputs(self, batch: Sequence[GenerationRequest]) -> dict[str, Any]: ...
    def processor_overrides(self, media: Media | None) -> dict[str, Any]: ...


class VllmEngine(Engine):
    """Gives a system's prompts to `vllm.LLM`, all of a call at once, those about one object side by side.

    vLLM refuses a whole call for one bad prompt: then it is halved until the bad one stands alone. An engine that
    dies (of memory, say) takes the call with it, which is a ModelError; the next call starts it anew.
    """

    enforced_forms = (Choices, JsonSchema, Regex)
    forms_of_old_recipes = (Choices,)

    def __init__(self, system: VllmSystem) -> None:
        self._system = system
        self._llm: Any = None
        self._tokenizer: Any = None
        self._thinks_in_tokens = False
        self._logged = 0
        self._unspelled: set[str] = set()
        self._tokenized: dict[tuple[str, ...], list[list[int]]] = {}

    @staticmethod
    def settings_problem(system: VllmSystem) -> str | None:
        if not system.supports_vllm:
            others = "engine: local runs it, engine: endpoint asks a server that has it"
            return f"engine: vllm: vLLM has no {system.system}; {others}"
        if system.device not in ("auto", "cuda") or system.placement != "device" or system.attention != "auto":
            return "engine: vllm: device, placement and attention are vLLM's own; see CUDA_VISIBLE_DEVICES"
        return None

    @property
    def preferred_objects(self) -> int:
        # At the end of a call fewer and fewer replies are in flight: that is to be a small part of it.
        return max(LEAST_OBJECTS, 4 * self._system.max_concurrency)

    def weights_digest(self) -> str:
        return weights_digest(self._system.ref)

    def fingerprint_parts(self) -> dict[str, Any]:
        return {"engine": "vllm"}

    def availability(self) -> Availability:
        """Whether vLLM is installed, has a device and the weights are here; importing it takes many seconds and is left
        to `load`. Whoever asks has a start that failed tried again.
        """
        FAILED_STARTS.forget()
        return self._availability()

    def _availability(self) -> Availability:
        import torch

        build = installed_build()
        if build is None:
            remedy = f"run: {install_command('vllm')} (an environment of its own: it pins torch); or {_OTHERWISE}"
            return Availability(False, "vLLM is not installed", remedy)
        if build.for_gpu and not torch.cuda.is_available():
            return Availability(False, f"vLLM {build.version} finds no GPU here", _OTHERWISE)
        return weights_availability(self._system.system, self._system.ref, self._system.default)

    def load(self) -> None:
        """Start vLLM with the weights that are on this machine, once; what did not start is not tried again until
        somebody asks for its availability. Raises ModelError.
        """
        if self._llm is not None:
            return
        system = self._system
        available, path = self._availability(), local_path(system.ref)
        if not available.usable or path is None:
            raise ModelError(available.refusal(system.system))
        settings = self._settings(path)
        if (reason := FAILED_STARTS.reason(settings)) is not None:
            raise ModelError(reason)
        system.refuse_another_model(path)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report what machine and model this is
        LOG.configure()
        self._logged = LOG.size()
        try:
            from vllm import LLM

            processor = system.load_processor(path)
            self._tokenizer = processor.tokenizer
            self._thinks_in_tokens = any(map(marks_thinking, processor.tokenizer.all_special_tokens))
            system.on_loaded(processor, None)
            cache = {} if self._on_gpu or "gpu_memory_utilization" in system.model_fields_set else cache_on_cpu()
            self._llm = LLM(**settings, **cache, mm_processor_kwargs=system.processor_overrides(None) or None)
        except Exception as error:  # vLLM raises whatever its workers met
            cause = LOG.cause_since(self._logged) or f"{type(error).__name__}: {error}"
            message = " ".join(cause.split())[:500]
            reason = (
                f"{system.system}: vLLM did not start with {path} ({message}); {LOG.keep()}; "
                f"if memory is short, lower max_model_len or gpu_memory_utilization; or {_OTHERWISE}"
            )
            FAILED_STARTS.remember(settings, reason)
            raise ModelError(reason) from None

    @property
    def _on_gpu(self) -> bool:
        return resolve_device(self._system.device) == "cuda"

    def _settings(self, path: Path) -> dict[str, Any]:
        system = self._system
        videos = system.supports_video and MediaKind.VIDEO in system.media_kinds
        return {
            "model": str(path),  # a folder, or the hub's snapshot of the pinned revision: nothing is fetched
            "trust_remote_code": False,
            "load_format": "safetensors",
            "dtype": ("bfloat16" if self._on_gpu else "float32") if system.dtype == "auto" else system.dtype,
            "max_model_len": system.max_model_len,
            "max_num_seqs": system.max_concurrency,
            "gpu_memory_utilization": system.gpu_memory_utilization,
            "enable_prefix_caching": True,
            "enforce_eager": not self._on_gpu,  # on a CPU it would first compile for minutes
            "use_tqdm_on_load": False,
            "limit_mm_per_prompt": {"image": 1, "video": 1} if videos else {"image": 1},
        }

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        self.load()
        outputs: dict[int, Output] = {}
        submitted: dict[int, tuple[GenerationRequest, Any]] = {}
        shown: dict[int, Any] = {}
        tokens: dict[tuple[str, MediaKind], list[int]] = {}
        media = [_medium(each) for each in requests]
        # What is asked of one object stands together: its prefix and its encoding are then still there.
        for index in sorted(range(len(requests)), key=lambda k: media.index(media[k])):
            each, medium = requests[index], media[index]
            try:
                if medium not in shown:
                    shown[medium] = self._media_data(each)
                asked = each.prompt.text, each.request.media.kind
                if asked not in tokens:  # one placeholder stands for the media, whatever they are
                    tokens[asked] = self._system.prompt_tokens(each)
                submitted[index] = (each, {"prompt_token_ids": tokens[asked]} | shown[medium])
            except Exception as error:  # what the processor makes of odd media or words is that prompt's failure
                outputs[index] = _failure(error)
        if submitted:
            try:
                outputs |= zip(submitted, self._generate(list(submitted.values())), strict=True)
            except Incomplete as stopped:
                done: dict[int, Output | None] = {**outputs, **dict(zip(submitted, stopped.done, strict=True))}
                raise Incomplete(str(stopped), [done.get(index) for index in range(len(requests))]) from None
        return [outputs[index] for index in range(len(requests))]

    # --- what is submitted ----------------------------------------------------------------------

    def _media_data(self, each: GenerationRequest) -> dict[str, Any]:
        """The media of a prompt: a PIL image, or frames (count, height, width, 3) with their times."""
        media, inputs = each.request.media, self._system.media_inputs([each])
        data: dict[str, Any]
        if isinstance(media, DecodedImage):
            data = {"image": inputs["images"][0]}
        else:
            times = inputs["videos_kwargs"]["video_metadata"][0] | {"do_sample_frames": False}
            data = {"video": (inputs["videos"][0], times)}
        settings = self._system.processor_overrides(media)
        return {"multi_modal_data": data} | ({"mm_processor_kwargs": settings} if settings else {})

    def _sampling(self, each: GenerationRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        form = self._enforced(each)
        return SamplingParams(
            temperature=0.0,
            max_tokens=each.prompt.max_new_tokens,
            # Boxes may be written in them, and without its marks thinking would be part of an answer.
            skip_special_tokens=not (each.request.enrichment.capability.gives_places or self._thinks_in_tokens),
            spaces_between_special_tokens=False,
            structured_outputs=StructuredOutputsParams(**form) if form else None,
        )

    def _enforced(self, each: GenerationRequest) -> dict[str, Any]:
        """The form of a reply as vLLM takes it; nothing where there is none, or this vocabulary cannot spell it."""
        asked = each.prompt.reply_form
        if not self._system.enforce_reply_form or (self._unspelled and described(asked) in self._unspelled):
            return {}
        match asked:
            case Choices(options):
                # By their tokens, as `engine: local` follows them: not every vocabulary has them as they are written.
                return {"grammar": token_grammar(self._choice_tokens(options))}
            case JsonSchema(schema):
                return {"json": dict(schema)}
            case Regex(pattern):
                return {"regex": pattern}
        return {}

    def _choice_tokens(self, options: tuple[str, ...]) -> list[list[int]]:
        if options not in self._tokenized:
            spelled = [self._tokenizer(option, add_special_tokens=False)["input_ids"] for option in options]
            self._tokenized[options] = [list(tokens) for tokens in spelled]
        return self._tokenized[options]

    # --- what comes back ------------------------------------------------------------------------

    def _generate(self, submitted: Sequence[tuple[GenerationRequest, Any]]) -> list[Output]:
        from vllm.v1.engine.exceptions import EngineDeadError

        def attempt(part: Sequence[tuple[GenerationRequest, Any]]) -> list[Output]:
            outputs = self._asked(part)
            held = [k for k, output in enumerate(outputs) if _broke_off(output) and self._enforced(part[k][0])]
            if held:
                forms = {described(part[k][0].prompt.reply_form) for k in held}
                self._unspelled |= forms
                for k, output in zip(held, self._asked([part[k] for k in held]), strict=True):
                    outputs[k] = output
                if any(_broke_off(outputs[k]) for k in held):  # it was not the form
                    self._unspelled -= forms
                else:
                    told = "; ".join(forms)[:300]
                    _logger.warning("replies are not held to their form, which the vocabulary cannot spell: %s", told)
            return [self._read(each, output) for (each, _), output in zip(part, outputs, strict=True)]

        def to_failure(error: Exception, part: Sequence[tuple[GenerationRequest, Any]]) -> Failure:
            if isinstance(error, EngineDeadError):
                self._llm = None
                remedy = "if memory was short, lower gpu_memory_utilization, max_model_len or max_concurrency"
                why = " ".join(LOG.cause_since(self._logged).split())[:500]
                died = f"vLLM's engine died ({why})" if why else "vLLM's engine died"
                raise ModelError(f"{self._system.system}: {died}; {LOG.keep()}; {remedy}") from None
            return _failure(error)

        return bisect_failures(submitted, attempt, to_failure)

    def _asked(self, part: Sequence[tuple[GenerationRequest, Any]]) -> list[Any]:
        prompts, sampling = [prompt for _, prompt in part], [self._sampling(each) for each, _ in part]
        return list(self._llm.generate(prompts, sampling, use_tqdm=False))

    def _read(self, each: GenerationRequest, output: Any) -> Output:
        (completion,) = output.outputs
        ended, count = completion.finish_reason, len(completion.token_ids)
        if _broke_off(output):
            return Failure(Cause.MODEL, f"vLLM ended the reply: {ended}", raw_reply=completion.text)
        if ended == "length" and count < each.prompt.max_new_tokens:
            why = f"the context was full after {count} tokens of the reply; raise max_model_len"
            return Failure(Cause.TRUNCATED, why, raw_reply=completion.text)
        usage = Usage(len(output.prompt_token_ids or ()), count)
        text = completion.text
        if choices := each.prompt.choices:
            tokenized = dict(zip(map(tuple, self._choice_tokens(choices)), choices, strict=True))
            text = tokenized.get(tuple(completion.token_ids[: count - (ended == "stop")]), text)
        return Generated(text, usage, truncated=ended == "length")


def _broke_off(output: Any) -> bool:
    """Whether a reply ended otherwise than by its end or a limit."""
    return output.outputs[0].finish_reason not in ("stop", "length")


def token_grammar(tokenized: Sequence[Sequence[int]]) -> str:
    """One of some lists of tokens, as a grammar of xgrammar's (https://xgrammar.mlc.ai), which vLLM takes."""
    alternatives = [" ".join(f"Token({token})" for token in tokens) or '""' for tokens in tokenized]
    return f"root ::= {' | '.join(alternatives)}"


def _medium(each: GenerationRequest) -> int:
    """What tells the media of a prompt from those of others: a video's frames are new media in every request."""
    media = each.request.media
    return id(media.pixels if isinstance(media, DecodedImage) else media)


def _failure(error: Exception) -> Failure:
    """The failure of the one prompt that an error is about."""
    message = f"{type(error).__name__}: {error}"[:500]
    if isinstance(error, ReplyError):
        return Failure(error.cause, message)
    from vllm.exceptions import VLLMValidationError

    # A prompt that is longer than the context will be so tomorrow.
    too_long = isinstance(error, VLLMValidationError) and ("length" in message or "cache size" in message)
    return Failure(Cause.TOO_LARGE if too_long else Cause.MODEL, message)
