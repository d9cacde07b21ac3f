"""How a server that speaks OpenAI's protocol is reached: whose key, which headers, and what Azure wants besides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from sightflow.blocks.extras import install_command, is_installed
from sightflow.blocks.models.contract import Availability
from sightflow.schemas.redaction import remember

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")  # a token of RFC 9110, section 5.6.2
_OF_THE_CLIENT = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"}
)
_AZURE_SCOPE = "https://cognitiveservices.azure.com/.default"
_AZURE_VARIABLE = "AZURE_OPENAI_API_KEY"


# What opens a store, an orchestrator or an account: a spec that somebody else wrote is not to send it anywhere.
_OF_SOMETHING_ELSE = re.compile(
    r"AWS_(?!BEARER_TOKEN_BEDROCK$)|PREFECT_|AZURE_(?:STORAGE|CLIENT|USERNAME|PASSWORD)|GOOGLE_APPLICATION|GITHUB_|GH_"
    r"|SSH_|DOCKER_|KUBE|SIGHTFLOW_(?!ENDPOINT_KEY$)",
    re.IGNORECASE,
)


def _variable(name: str) -> str:
    # What stands there instead may be the key itself, and is not shown.
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is the name of an environment variable that holds the value, never the value itself")
    if _OF_SOMETHING_ELSE.match(name):
        raise ValueError("is a variable that opens something else, and is sent to no model; use one of its own")
    return name


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name in headers:
        if not _HEADER.fullmatch(name) or name.lower() in _OF_THE_CLIENT:
            raise ValueError("names a header that cannot be set")
    return headers


Variable = Annotated[str, AfterValidator(_variable)]
"""The name of an environment variable."""


class OpenAIAccess(BaseModel):
    """Settings of any system that is asked by OpenAI's protocol. What is secret stands in environment variables."""

    api_key_variable: Variable | None = Field(
        default=None, description="Environment variable that holds the key, e.g. OPENROUTER_API_KEY."
    )
    headers: Annotated[dict[str, Variable], AfterValidator(_headers)] = Field(
        default_factory=dict, description="Headers of every request: of each, the environment variable with its value."
    )
    azure_api_version: str | None = Field(
        default=None,
        pattern=r"^\d{4}-\d{2}-\d{2}(-preview)?$",
        description="Azure OpenAI by deployments, e.g. 2024-10-21; the address is then the resource's alone.",
    )
    azure_deployment: str | None = Field(
        default=None, min_length=1, max_length=200, description="Azure OpenAI: the deployment's name; unset: the id."
    )
    azure_entra: bool = Field(
        default=False, description="Azure OpenAI: a token of Microsoft Entra in the place of a key."
    )

    @model_validator(mode="after")
    def _azure_has_an_address(self) -> Self:
        if not self.at_azure:
            return self
        if not self.server_address:
            raise ValueError("Azure OpenAI needs the resource's address, https://RESOURCE.openai.azure.com")
        if self.azure_api_version and "/openai" in self.server_address:
            raise ValueError("with azure_api_version the address is the resource's alone, without /openai")
        return self

    @property
    def server_address(self) -> str | None:
        """The address that the settings name."""
        return None

    @property
    def at_azure(self) -> bool:
        return bool(self.azure_api_version or self.azure_deployment or self.azure_entra)

    def own_key_variables(self, usual: tuple[str, ...]) -> tuple[str, ...]:
        """The environment variables that may hold the key: the one that the settings name, or the usual ones."""
        if self.api_key_variable:
            return (self.api_key_variable,)
        return (_AZURE_VARIABLE,) if self.at_azure else usual

    def access_problem(self) -> Availability | None:
        """What is missing of headers and tokens, or None; nothing is sent."""
        if missing := [variable for variable in self.headers.values() if not os.environ.get(variable, "").strip()]:
            return Availability(False, f"the headers want {', '.join(missing)}, which is not set", "set it")
        if self.azure_entra and not is_installed("azure.identity"):
            return Availability(False, "azure-identity is not installed", f"run: {install_command('azure-openai')}")
        return None

    def access(self) -> dict[str, Any]:
        """The fields of an `Account` that these settings give."""
        values = {name: os.environ.get(variable, "").strip() for name, variable in self.headers.items()}
        return {
            "headers": {name: remember(value) for name, value in values.items() if value},
            "azure_api_version": self.azure_api_version,
            "deployment": self.azure_deployment,
            "token": _entra_token() if self.azure_entra and is_installed("azure.identity") else None,
        }


def _entra_token() -> Callable[[], str]:
    """Gives a token of Microsoft Entra for Azure's models, as DefaultAzureCredential finds one: of the environment, the
    workload, the managed identity or `az login`.
    """

    @cache
    def provider() -> Callable[[], str]:
        from azure.identity import DefaultAzureCredential, get_bearer_token_provider

        return get_bearer_token_provider(DefaultAzureCredential(), _AZURE_SCOPE)

    return lambda: remember(provider()())
