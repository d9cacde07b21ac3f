"""The engines, one line each; a class is imported when it is first used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from sightflow.blocks.extras import install_command, is_installed
from sightflow.blocks.models.contract import Availability, Engine, GenerationRequest, Output
from sightflow.schemas.failure import MissingExtra

_HERE = "sightflow.blocks.models.engines"


class EngineEntry(NamedTuple):
    """Where an engine's class is, the package that it cannot be imported without, and the extra that installs it.

    `is_remote`: whether media leave for another's machine, as the class says of itself.
    """

    path: str
    package: str
    extra: str
    is_remote: bool = False


OPEN_WEIGHTS_ENGINES: dict[str, EngineEntry] = {
    "local": EngineEntry(f"{_HERE}.transformers.engine:TransformersEngine", "transformers", "local"),
    "endpoint": EngineEntry(f"{_HERE}.providers.openai_endpoint:OpenAIEndpoint", "openai", "openai", True),
    "vllm": EngineEntry(f"{_HERE}.vllm:VllmEngine", "transformers", "vllm"),
}
"""What the setting `engine` of a system with open weights may say."""
VENDOR_ENGINES: dict[str, EngineEntry] = {
    "openai": EngineEntry(f"{_HERE}.providers.openai_chat:OpenAIEngine", "openai", "openai", True),
    "gemini": EngineEntry(f"{_HERE}.providers.gemini:GeminiEngine", "google.genai", "gemini", True),
    "dashscope": EngineEntry(f"{_HERE}.providers.dashscope:DashScopeEngine", "dashscope", "dashscope", True),
}
"""The vendors' SDKs, by the name that a hosted system gives."""


class MissingEngine(Engine):
    """Stands for an engine whose package is not installed: it says so, and how to install it."""

    def __init__(self, entry: EngineEntry, system: Any) -> None:
        self._entry = entry
        self._system = system

    @property
    def is_remote(self) -> bool:
        return self._entry.is_remote

    def availability(self) -> Availability:
        return Availability(
            False, f"{self._entry.package} is not installed", f"run: {install_command(self._entry.extra)}"
        )

    def load(self) -> None:
        raise MissingExtra(self.availability().refusal(self._system.system))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Output]:
        self.load()
        return []

    def weights_digest(self) -> str:
        return str(self._system.ref.pinned)


def _entry(name: str) -> EngineEntry:
    return (OPEN_WEIGHTS_ENGINES | VENDOR_ENGINES)[name]


@cache
def _engine_class(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def make_engine(name: str, system: Any) -> Engine:
    """The engine of this name for a configured system, not yet loaded."""
    entry = _entry(name)
    if not is_installed(entry.package):
        return MissingEngine(entry, system)
    engine: Engine = _engine_class(entry.path)(system)
    return engine


def settings_problem(name: str, system: Any) -> str | None:
    """Why a system's settings cannot go with the engine of this name, or None."""
    if name not in OPEN_WEIGHTS_ENGINES:
        return f"engine: {name} is not known; allowed: {', '.join(OPEN_WEIGHTS_ENGINES)}"
    problem: str | None = _engine_class(_entry(name).path).settings_problem(system)
    return problem
