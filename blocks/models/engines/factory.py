"""The engines, one line each; a class is imported when it is first used."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from sightflow.blocks.models.contract import Engine

OPEN_WEIGHTS_ENGINES: dict[str, str] = {
    "local": "sightflow.blocks.models.engines.transformers.engine:TransformersEngine",
    "endpoint": "sightflow.blocks.models.engines.providers.openai_endpoint:OpenAIEndpoint",
    "vllm": "sightflow.blocks.models.engines.vllm:VllmEngine",
}
"""What the setting `engine` of a system with open weights may say."""
PROVIDER_ENGINES: dict[str, str] = {
    "openai": "sightflow.blocks.models.engines.providers.openai_chat:OpenAIEngine",
    "gemini": "sightflow.blocks.models.engines.providers.gemini:GeminiEngine",
    "dashscope": "sightflow.blocks.models.engines.providers.dashscope:DashScopeEngine",
}
"""The vendors' SDKs, by the name that a hosted system gives."""


@cache
def _engine_class(name: str) -> Any:
    module, _, attribute = (OPEN_WEIGHTS_ENGINES | PROVIDER_ENGINES)[name].partition(":")
    return getattr(import_module(module), attribute)


def make_engine(name: str, system: Any) -> Engine:
    """The engine of this name for a configured system, not yet loaded."""
    engine: Engine = _engine_class(name)(system)
    return engine


def settings_problem(name: str, system: Any) -> str | None:
    """Why a system's settings cannot go with the engine of this name, or None."""
    if name not in OPEN_WEIGHTS_ENGINES:
        return f"engine: {name} is not known; allowed: {', '.join(OPEN_WEIGHTS_ENGINES)}"
    problem: str | None = _engine_class(name).settings_problem(system)
    return problem
