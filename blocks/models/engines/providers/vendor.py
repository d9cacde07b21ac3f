"""A system at its vendor, through the vendor's own SDK."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import SecretStr

from sightflow.blocks.models.contract import Availability
from sightflow.blocks.models.engines.providers.engine import Account, ProviderEngine, ProviderSystem
from sightflow.schemas.money.rates import FREE, Rates
from sightflow.schemas.vision import ModelRef


class VendorSystem(ProviderSystem, Protocol):
    """What a vendor's engine asks of a system: the account, and the profile of the model id."""

    @property
    def vendor(self) -> str: ...
    @property
    def accepted_variables(self) -> tuple[str, ...]: ...
    @property
    def ref(self) -> ModelRef: ...
    @property
    def rates(self) -> Rates | None: ...
    @property
    def successor(self) -> str: ...
    @property
    def profile(self) -> Any: ...

    base_url: str | None
    timeout: float
    max_concurrency: int
    max_attempts: int
    longest_wait: float
    requests_per_minute: int | None
    tokens_per_minute: int | None

    def key(self) -> str: ...
    def access(self) -> dict[str, Any]: ...
    def account_availability(self) -> Availability: ...


class VendorEngine(ProviderEngine):
    """Sends prompts with the key and the limits that a system's settings name."""

    def __init__(self, system: VendorSystem) -> None:
        super().__init__(system, account_of(system))
        self._vendor_system = system

    def availability(self) -> Availability:
        return self._vendor_system.account_availability()

    def load(self) -> None:
        if self._client is None:
            self.account = account_of(self._vendor_system)  # a key may have come into the environment since
        super().load()

    def weights_digest(self) -> str:
        return self._vendor_system.ref.pinned


def account_of(system: VendorSystem) -> Account:
    """The account of a configured system, with the vendor's limits where the settings name none."""
    return Account(
        vendor=system.vendor,
        model_id=system.ref.id,
        key=SecretStr(system.key()),
        key_variables=system.accepted_variables,
        base_url=system.base_url,
        timeout=system.timeout,
        max_concurrency=system.max_concurrency,
        max_attempts=system.max_attempts,
        longest_wait=system.longest_wait,
        requests_per_minute=system.requests_per_minute or system.profile.requests_per_minute,
        tokens_per_minute=system.tokens_per_minute or system.profile.tokens_per_minute,
        rates=system.rates or FREE,
        successor=system.successor,
        **system.access(),
    )
