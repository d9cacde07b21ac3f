"""Which storage account is meant, and what opens it: the settings of a store, else the environment, else a login.

The names are those that Azure's own tools read: a connection string, an account's name with its key or a shared access
signature (SAS), else what `DefaultAzureCredential` of azure-identity finds: a service principal or a workload identity
in the environment, a managed identity, the login of the Azure CLI.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from sightflow.blocks.extras import require
from sightflow.blocks.store.buckets.client import BucketSettings
from sightflow.schemas.failure import StoreRefusal
from sightflow.schemas.object_uri import AZURE_SUFFIX
from sightflow.schemas.redaction import remember

_DEVELOPMENT_ACCOUNT = "devstoreaccount1"
# The published key of every emulator: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_DEVELOPMENT_KEY = (  # not a secret
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_DEVELOPMENT_URL = f"http://127.0.0.1:10000/{_DEVELOPMENT_ACCOUNT}"


class AzureSettings(BucketSettings, Protocol):
    """What Azure needs of the settings of an `ObjectStore`, where they are described."""

    azure_account: str | None
    azure_endpoint_url: str | None
    azure_connection_string: SecretStr | None
    azure_account_key: SecretStr | None
    azure_sas_token: SecretStr | None
    azure_tenant_id: str | None
    azure_client_id: str | None
    azure_client_secret: SecretStr | None
    anonymous: bool


@dataclass(frozen=True)
class Account:
    """A storage account. With neither `key`, `sas` nor `login` requests are not signed."""

    name: str
    url: str  # of its blob service, without a slash at its end
    key: str = field(default="", repr=False)  # Base64
    sas: str = field(default="", repr=False)  # a query, without its question mark
    login: bool = False


def find_account(settings: AzureSettings) -> Account:
    """The account that the settings or the environment speak of. Raises StoreRefusal if none is, or it is said wrongly.

    What the settings say of an account's keys stands for all: the environment's may be of another.
    """
    given = (settings.azure_connection_string, settings.azure_account_key, settings.azure_sas_token)
    if any(given):
        connection, key, sas = (secret.get_secret_value() if secret else "" for secret in given)
    elif settings.anonymous or settings.azure_client_secret:
        connection = key = sas = ""
    else:
        connection, key, sas = (
            os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""),
            os.environ.get("AZURE_STORAGE_ACCOUNT_KEY", "") or os.environ.get("AZURE_STORAGE_KEY", ""),
            os.environ.get("AZURE_STORAGE_SAS_TOKEN", ""),
        )
    parts = _parts_of(connection)
    name = settings.azure_account or parts.get("accountname") or _account_of_environment()
    if parts.get("usedevelopmentstorage", "").lower() == "true":
        name, key = name or _DEVELOPMENT_ACCOUNT, key or _DEVELOPMENT_KEY
        parts.setdefault("blobendpoint", _DEVELOPMENT_URL)
    elif parts.get("accountname") in (name, None):
        key, sas = key or parts.get("accountkey", ""), sas or parts.get("sharedaccesssignature", "")
    else:
        raise StoreRefusal(
            f"the connection string is of the Azure account {parts['accountname']!r}, and {name!r} is meant; "
            "set one of them anew, or use a saved store block for each account"
        )
    url = settings.azure_endpoint_url or parts.get("blobendpoint") or ""
    if not url and name:
        scheme, suffix = parts.get("defaultendpointsprotocol", "https"), parts.get("endpointsuffix", AZURE_SUFFIX)
        url = f"{scheme}://{name}.blob.{suffix}"
    url, _, query = url.partition("?")
    name = name or _account_in(url)
    if not name:
        raise StoreRefusal(
            "no Azure storage account is named; set AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_CONNECTION_STRING or "
            "`store: {azure_account: NAME}`, or write abfss://container@account.dfs.core.windows.net/folder"
        )
    sas = (sas or query).removeprefix("?")
    for secret in (key, sas, *parse_qs(sas).get("sig", ())):
        remember(secret)
    return Account(name, url.rstrip("/"), key, "" if key else sas, not (key or sas or settings.anonymous))


def open_login(settings: AzureSettings) -> Any:
    """The credential of azure-identity that gives tokens. Raises MissingExtra if that is not installed."""
    require("azure.identity", "azure", "a login to Azure without an account key or a SAS")
    from azure.identity import ClientSecretCredential, DefaultAzureCredential

    secret = settings.azure_client_secret
    if secret and settings.azure_tenant_id and settings.azure_client_id:
        return ClientSecretCredential(
            settings.azure_tenant_id, settings.azure_client_id, remember(secret.get_secret_value())
        )
    chosen = {"managed_identity_client_id": settings.azure_client_id} if settings.azure_client_id else {}
    return DefaultAzureCredential(**chosen)


def _account_of_environment() -> str:
    return os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT") or ""


def _parts_of(connection: str) -> dict[str, str]:
    """The parts of a connection string, their names in small letters."""
    remember(connection)
    named = (part.partition("=") for part in connection.split(";"))
    parts = {name.strip().lower(): value.strip() for name, _, value in named if value.strip()}
    if connection.strip() and not parts:
        raise StoreRefusal("the Azure connection string has no NAME=VALUE; copy it anew from the account's access keys")
    return parts


def _account_in(url: str) -> str:
    """The account that an address is of: before `.blob.`, or in the path of an emulator."""
    address = urlsplit(url)
    host = address.hostname or ""
    return host.partition(".")[0] if ".blob." in host else address.path.strip("/").partition("/")[0]
