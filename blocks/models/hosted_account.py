"""How a vendor is reached: the key, the model id with its price and its end, the limits of the account."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, SecretStr

from sightflow.blocks.models.model_profiles import HostedProfile, of_id
from sightflow.blocks.models.vision_model import Availability, VisionModel
from sightflow.schemas.spec import ServerAddress
from sightflow.schemas.vision import ModelRef


class HostedAccount(VisionModel):
    """A model id at a vendor, with the key that opens it. The key is shown nowhere."""

    vendor: ClassVar[str]
    key_variables: ClassVar[tuple[str, ...]]
    """Environment variables that may hold the key; the first that is set counts."""
    profiles: ClassVar[Mapping[str, HostedProfile]]
    fallback_profile: ClassVar[HostedProfile]
    """How an id without a profile is taken to behave; its prices must be configured."""
    retired: ClassVar[Mapping[str, str]]
    """Ids that are gone, with their successors."""

    api_key: SecretStr | None = Field(default=None, description="Empty: the vendor's environment variable.")
    base_url: ServerAddress | None = Field(default=None, description="Empty: the vendor's own endpoint.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Empty: as the vendor says.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Empty: as the vendor says.")
    usd_per_million_input: float | None = Field(default=None, ge=0, description="Empty: the list price known here.")
    usd_per_million_output: float | None = Field(default=None, ge=0, description="Empty: the list price known here.")

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.id or self.default.id, self.revision, self.default.licence, self.default.commercial_use)

    @property
    def profile(self) -> HostedProfile:
        """What is known of the configured id, or how a stranger is taken to behave."""
        return of_id(self.profiles, self.ref.id) or self.fallback_profile

    @property
    def prices(self) -> tuple[float, float] | None:
        """US dollars for a million input and output tokens; None if neither configured nor known."""
        known = of_id(self.profiles, self.ref.id)
        into = known.usd_per_million_input if known else None
        out = known.usd_per_million_output if known else None
        into = into if self.usd_per_million_input is None else self.usd_per_million_input
        out = out if self.usd_per_million_output is None else self.usd_per_million_output
        return None if into is None or out is None else (into, out)

    def availability(self) -> Availability:
        model_id, known = self.ref.id, self.profile
        # A gateway of the user's own may serve what the vendor no longer does.
        if self.base_url is None and (successor := of_id(self.retired, model_id)):
            gone = f"{model_id} has been shut down by {self.vendor}"
            return Availability(False, gone, f"set id to its successor, {successor}")
        key, variables = self._key(), " or ".join(self.key_variables)
        if not key:
            remedy = f"set {variables}, or the api_key of a saved {self.get_block_type_slug()} block"
            return Availability(False, "there is no API key", remedy)
        if not (key.isascii() and key.isprintable()) or " " in key:
            return Availability(False, "the API key holds characters that no key has", f"copy it anew into {variables}")
        if self.prices is None:
            remedy = "set usd_per_million_input and usd_per_million_output"
            return Availability(False, f"the price of {model_id} is not known", remedy)
        ends = f"; it ends {known.ends}, its successor is {known.successor}" if known.ends else ""
        return Availability(True, f"{model_id} at {self.base_url or self.vendor}{ends}")

    def _key(self) -> str:
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        return next((key for name in self.key_variables if (key := os.environ.get(name, "").strip())), "")

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        into, out = self.prices or (0.0, 0.0)
        return (input_tokens * into + output_tokens * out) / 1e6

    def _redacted(self, message: str) -> str:
        """What a provider said, short, on one line and without the key."""
        key = self._key()
        hidden = message.replace(key, "***") if key else message
        return " ".join(hidden.split())[:400]
