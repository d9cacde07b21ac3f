"""How a provider is reached, and what is asked of a system that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.image_sizes import Size
from sightflow.schemas.enrichment import Enrichment, Result
from sightflow.schemas.media import Media
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.vision import VisionRequest


@dataclass(frozen=True)
class Account:
    """How a provider is reached: the model id, the key that opens it, and the limits.

    `rates`: what tokens cost. `successor`: the id that the vendor names for this one.
    `headers`: of every request. `azure_api_version`, `deployment`: of Azure OpenAI. `token`: gives the token that
    stands in the key's place.
    """

    vendor: str
    model_id: str
    key: SecretStr
    key_variables: tuple[str, ...]
    base_url: str | None
    timeout: float
    max_concurrency: int
    max_attempts: int = 6
    longest_wait: float = 120.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    rates: Rates = FREE
    successor: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    azure_api_version: str | None = None
    deployment: str | None = None
    token: Callable[[], str] | None = field(default=None, repr=False)


class ProviderSystem(Protocol):
    """What is asked of a system that a provider serves."""

    enforce_reply_form: bool

    @property
    def system(self) -> str: ...
    def shown_size(self, media: Media) -> Size: ...
    def image_tokens(self, size: Size) -> int: ...
    def expected_reply_tokens(self, enrichment: Enrichment) -> int: ...
    def parse(self, request: VisionRequest, prompt: Prompt, text: str) -> Result: ...
