"""A local system in vLLM (https://docs.vllm.ai) inside this process: many prompts in flight, prefixes computed once.

The system's own adapter words the prompts, reads the replies and knows the coordinates. The settings of its processor
go along, so that vLLM's, which resizes the media, shows the model the pixels that `engine: local` would show it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sightflow.blocks.models.vision_model import Availability, Generated, ReplyError
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, ModelError
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.vision import Usage, VisionReply, VisionRequest

if TYPE_CHECKING:
    from sightflow.blocks.models.chat_model import InstructionTunedModel
    from sightflow.blocks.models.local_model import GenerationRequest

_OTHERWISE = "set engine: local, or engine: endpoint for a server elsewhere"


class VllmEngine:
    """Puts an adapter's prompts to `vllm.LLM`, all of a call at once, those about one object side by side.

    vLLM refuses a whole call for one bad prompt: then it is halved until the bad one stands alone. An engine that
    dies (of memory, say) takes the call with it, which is a ModelError; the next call starts it anew.
    """

    def __init__(self, adapter: InstructionTunedModel) -> None:
        self.adapter = adapter
        self._llm: Any = None

    @classmethod
    def of(cls, adapter: Any) -> VllmEngine:
        """The engine of an adapter whose settings name vLLM."""
        return cls(adapter)

    def availability(self) -> Availability:
        """Whether vLLM is installed and has a device; importing it takes many seconds and is left to `prepare`."""
        import torch

        try:
            version = metadata.version("vllm")
        except metadata.PackageNotFoundError:
            remedy = f"run: pip install '.[vllm]' (an environment of its own: it pins torch); or {_OTHERWISE}"
            return Availability(False, "vLLM is not installed", remedy)
        if "+" not in version and not torch.cuda.is_available():  # builds for other devices carry a suffix: 0.33.0+cpu
            return Availability(False, f"vLLM {version} finds no GPU here", _OTHERWISE)
        return Availability(True, f"vLLM {version}")

    def prepare(self) -> None:
        """Start vLLM with the weights that are on this machine, once. Raises ModelError."""
        if self._llm is not None:
            return
        adapter = self.adapter
        available, path = adapter.availability(), adapter.local_path()
        if not available.usable or path is None:
            raise ModelError(f"{adapter.system}: {available.why}; {available.remedy}")
        adapter.refuse_another_model(path)
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report what machine and model this is
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        on_gpu = adapter.resolved_device() == "cuda"
        videos = adapter.supports_video and MediaKind.VIDEO in adapter.media_kinds
        try:
            from vllm import LLM

            adapter.load_processor_alone(path)
            self._llm = LLM(
                model=str(path),  # a folder, or the hub's snapshot of the pinned revision: nothing is fetched
                trust_remote_code=False,
                load_format="safetensors",
                dtype=("bfloat16" if on_gpu else "float32") if adapter.dtype == "auto" else adapter.dtype,
                max_model_len=adapter.max_model_len,
                max_num_seqs=adapter.max_concurrency,
                gpu_memory_utilization=adapter.gpu_memory_utilization,
                enable_prefix_caching=True,
                limit_mm_per_prompt={"image": 1, "video": 1} if videos else {"image": 1},
                mm_processor_kwargs=adapter.processor_settings(None) or None,
            )
        except Exception as error:
            message = " ".join(str(error).split())[:500]
            raise ModelError(
                f"{adapter.system}: vLLM did not start with {path} ({type(error).__name__}: {message}); its log says "
                f"more; if memory is short, lower max_model_len or gpu_memory_utilization; or {_OTHERWISE}"
            ) from None

    def run(self, requests: Sequence[VisionRequest]) -> list[VisionReply]:
        """Answer each request, in order."""
        from sightflow.blocks.models.local_model import GenerationRequest  # which imports this file

        self.prepare()
        asked = [self.adapter.prompts(request.enrichment, request.media.kind) for request in requests]
        units = [GenerationRequest(r, prompt) for r, prompts in zip(requests, asked, strict=True) for prompt in prompts]
        said = iter(self._answers(units))
        return [self.adapter.reply(r, [(p, next(said)) for p in ps]) for r, ps in zip(requests, asked, strict=True)]

    # --- what is put ----------------------------------------------------------------------------

    def _answers(self, units: Sequence[GenerationRequest]) -> list[Generated | Failure]:
        said: dict[int, Generated | Failure] = {}
        put: dict[int, tuple[GenerationRequest, Any]] = {}
        shown: dict[int, Any] = {}
        about = [_image(unit) for unit in units]
        # What is asked of one object stands together: its prefix and its encoding are then still there.
        for place in sorted(range(len(units)), key=lambda k: about.index(about[k])):
            unit, seen = units[place], about[place]
            try:
                if seen not in shown:
                    shown[seen] = self._shown(unit)
                put[place] = (unit, {"prompt_token_ids": self.adapter.prompt_tokens(unit)} | shown[seen])
            except Exception as error:
                said[place] = _failure(error)
        said |= zip(put, self._generate(list(put.values())), strict=True)
        return [said[place] for place in range(len(units))]

    def _shown(self, unit: GenerationRequest) -> dict[str, Any]:
        """The media of a prompt: a PIL image, or frames (count, height, width, 3) with their times."""
        media, inputs = unit.request.media, self.adapter.media_inputs([unit])
        data: dict[str, Any]
        if isinstance(media, DecodedImage):
            data = {"image": inputs["images"][0]}
        else:
            times = inputs["videos_kwargs"]["video_metadata"][0] | {"do_sample_frames": False}
            data = {"video": (inputs["videos"][0], times)}
        settings = self.adapter.processor_settings(media)
        return {"multi_modal_data": data} | ({"mm_processor_kwargs": settings} if settings else {})

    @staticmethod
    def _sampling(unit: GenerationRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        choices = list(unit.prompt.choices)
        return SamplingParams(
            temperature=0.0,
            max_tokens=unit.prompt.max_new_tokens,
            skip_special_tokens=unit.request.enrichment.capability.gives_text,  # boxes may be written in them
            spaces_between_special_tokens=False,
            structured_outputs=StructuredOutputsParams(choice=choices) if choices else None,
        )

    # --- what comes back ------------------------------------------------------------------------

    def _generate(self, put: Sequence[tuple[GenerationRequest, Any]]) -> list[Generated | Failure]:
        """Generate for all; when that fails, halve until the prompt that is to blame stands alone."""
        if not put:
            return []
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = self._llm.generate(
                [prompt for _, prompt in put], [self._sampling(unit) for unit, _ in put], use_tqdm=False
            )
            return [self._read(unit, output) for (unit, _), output in zip(put, outputs, strict=True)]
        except EngineDeadError:
            self._llm = None
            remedy = "if memory was short, lower gpu_memory_utilization, max_model_len or max_concurrency"
            raise ModelError(f"{self.adapter.system}: vLLM's engine died; its log says why; {remedy}") from None
        except Exception as error:
            failure = _failure(error)
        if len(put) > 1:
            half = len(put) // 2
            return self._generate(put[:half]) + self._generate(put[half:])
        return [failure]

    def _read(self, unit: GenerationRequest, output: Any) -> Generated | Failure:
        (completion,) = output.outputs
        ended, count = completion.finish_reason, len(completion.token_ids)
        if ended not in ("stop", "length"):
            return Failure(Cause.MODEL, f"vLLM ended the reply: {ended}", raw_reply=completion.text)
        if ended == "length" and count < unit.prompt.max_new_tokens:
            why = f"the context was full after {count} tokens of the reply; raise max_model_len"
            return Failure(Cause.TRUNCATED, why, raw_reply=completion.text)
        usage = Usage(len(output.prompt_token_ids or ()), count)
        return Generated(completion.text, usage, truncated=ended == "length")


def _image(unit: GenerationRequest) -> int:
    """What tells the media of a prompt from those of others: a video's frames are new media in every request."""
    media = unit.request.media
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
