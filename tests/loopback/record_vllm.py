"""Writes vllm_signatures.json: what a published vLLM takes and gives, read from its wheel without importing it.

pip download --no-deps vllm==0.33.0 -d /tmp && python -m tests.loopback.record_vllm /tmp/vllm-0.33.0-*.whl
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("vllm_signatures.json")


def parameters(function: ast.FunctionDef) -> list[list[Any]]:
    """Name, kind and whether it may be left out, of each parameter but `self`; kinds as in `inspect.Parameter`."""
    arguments = function.args
    placed = [*arguments.posonlyargs, *arguments.args]
    optional = len(placed) - len(arguments.defaults)
    found: list[list[Any]] = [[a.arg, "POSITIONAL_OR_KEYWORD", k >= optional] for k, a in enumerate(placed)][1:]
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append([argument.arg, "KEYWORD_ONLY", default is not None])
    if arguments.kwarg:
        found.append([arguments.kwarg.arg, "VAR_KEYWORD", True])
    return found


def fields(node: ast.ClassDef) -> list[str]:
    named = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
    return [name for name in named if not name.startswith("_")]


def record(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:

        def module(path: str) -> ast.Module:
            return ast.parse(archive.read(f"vllm/{path}.py"))

        def named(path: str, name: str) -> Any:
            return next(n for n in module(path).body if isinstance(n, ast.ClassDef) and n.name == name)

        def method(path: str, owner: str, name: str) -> list[list[Any]]:
            functions = [n for n in named(path, owner).body if isinstance(n, ast.FunctionDef) and n.name == name]
            return parameters(functions[-1])

        models = [n for n in module("model_executor/models/registry").body if isinstance(n, ast.Assign)]
        multimodal = next(n.value for n in models if getattr(n.targets[0], "id", "") == "_MULTIMODAL_MODELS")
        assert isinstance(multimodal, ast.Dict)
        ours = ("Llava", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Florence", "InstructBlip", "VideoLlava")
        architectures = [str(key.value) for key in multimodal.keys if isinstance(key, ast.Constant)]
        return {
            "version": wheel.name.split("-")[1],
            "LLM": method("entrypoints/llm", "LLM", "__init__"),
            "LLM.generate": method("entrypoints/llm", "LLM", "generate"),
            "EngineArgs": fields(named("engine/arg_utils", "EngineArgs")),
            "SamplingParams": fields(named("sampling_params", "SamplingParams")),
            "StructuredOutputsParams": fields(named("sampling_params", "StructuredOutputsParams")),
            "TokensPrompt": fields(named("inputs/llm", "TokensPrompt")) + fields(named("inputs/llm", "_PromptOptions")),
            "multi_modal_data": fields(named("inputs/llm", "MultiModalDataBuiltins")),
            "CompletionOutput": fields(named("outputs", "CompletionOutput")),
            "RequestOutput": method("outputs", "RequestOutput", "__init__"),
            "exceptions": [
                named("exceptions", "VLLMValidationError").name,
                named("v1/engine/exceptions", "EngineDeadError").name,
            ],
            "architectures": sorted(a for a in architectures if a.startswith(ours)),
        }


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record(Path(sys.argv[1])).items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
