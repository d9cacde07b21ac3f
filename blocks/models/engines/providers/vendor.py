"""A system at its vendor, through the vendor's own SDK."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol

from pydantic import SecretStr

from sightflow.blocks.models.contract import Availability, BatchDelivery, GenerationRequest
from sightflow.blocks.models.engines.providers.account import Account, ProviderSystem
from sightflow.blocks.models.engines.providers.engine import ProviderEngine
from sightflow.blocks.models.engines.providers.messages import ProviderRequest
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import ModelError
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

    def generation_settings(self) -> dict[str, Any]: ...
    def key(self) -> str: ...
    def access(self) -> dict[str, Any]: ...
    def account_availability(self) -> Availability: ...


class VendorEngine(ProviderEngine):
    """Sends prompts with the key and the limits that a system's settings name."""

    def __init__(self, system: VendorSystem) -> None:
        super().__init__(system, account_of(system))
        self._vendor_system = system
        self._batches: BatchDelivery | None = None

    def availability(self) -> Availability:
        return self._vendor_system.account_availability()

    def load(self) -> None:
        if self._client is None:
            self.account = account_of(self._vendor_system)  # a key may have come into the environment since
        super().load()

    def most_reply_tokens(self, request: ProviderRequest) -> int:
        return request.prompt.max_new_tokens + int(self._vendor_system.profile.thinking_tokens)

    def sent_settings(self) -> dict[str, Any]:
        return self._vendor_system.generation_settings()

    def weights_digest(self) -> str:
        return self._vendor_system.ref.pinned

    @property
    def counting_problem(self) -> str | None:
        """Why the vendor cannot be asked how many tokens a request has, or None."""
        return f"{self.account.vendor} has no endpoint that counts"

    def count_input_tokens(self, each: GenerationRequest) -> int:
        """The tokens of a request as the vendor counts them, which answers and charges nothing. Raises ModelError."""
        self.load()
        try:
            request = ProviderRequest(each.request, each.prompt, self.encode_media(each.request))
            return self._counted(request)
        except Exception as error:  # every SDK has its own; its frames may hold the key
            why = self.redact(f"{type(error).__name__}: {error}")
            raise ModelError(f"{self._system.system}: {self.account.vendor} did not count: {why}") from None

    def _counted(self, request: ProviderRequest) -> int:
        """Have the vendor count. Raises what its SDK does."""
        raise NotImplementedError

    def batch_problem(self, enrichment: Enrichment, media_kind: MediaKind) -> str | None:
        system = self._vendor_system
        if system.rates is None or system.rates.batch is None:
            return f"{system.vendor} names no price of {system.ref.id} in batches"
        return None

    def batch_delivery(self) -> BatchDelivery:
        self.load()
        if self._batches is None:
            self._batches = self.connect_batches()
        return self._batches

    @abstractmethod
    def connect_batches(self) -> BatchDelivery:
        """The vendor's batch API, by a client of its own: files take longer than replies, and are larger."""


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
