"""Credentials that are saved as blocks of prefect-aws, prefect-gcp and prefect-azure, in the settings of a store.

What such a block holds is read from Prefect as data: the packages need not be installed here. Their fields:
https://docs.prefect.io/integrations/prefect-aws, prefect-gcp and prefect-azure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sightflow.schemas.failure import SpecError, StoreError

Settings = dict[str, Any]


def saved_credentials(names: Sequence[str]) -> Settings:
    """The settings of an `ObjectStore` that saved blocks stand for, each named as `type/name`.

    Raises SpecError for a type that is not taken, StoreError if Prefect has no such block or is not to be reached.
    """
    found: Settings = {}
    for name in names:
        kind, _, saved = name.partition("/")
        if kind not in _KINDS or not saved:
            raise SpecError(
                f"{name!r} names no saved credentials; allowed: {', '.join(f'{kind}/NAME' for kind in _KINDS)}"
            )
        settings = {key: value for key, value in _KINDS[kind](_read(kind, saved)).items() if value}
        if twice := sorted(found.keys() & settings.keys()):
            raise SpecError(f"{name!r} gives {', '.join(twice)} anew; name one block for each cloud")
        found |= settings
    return found


def _read(kind: str, name: str) -> Mapping[str, Any]:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(name, kind, include_secrets=True)
    except ObjectNotFound:
        raise StoreError(f"Prefect has no block {kind}/{name}; see: prefect block ls") from None
    except Exception as error:  # of the many classes of HTTP
        raise StoreError(
            f"the block {kind}/{name} cannot be read from Prefect ({type(error).__name__}); check PREFECT_API_URL"
        ) from None
    return document.data


def _aws(data: Mapping[str, Any]) -> Settings:
    more = data.get("aws_client_parameters") or {}
    return {
        "access_key_id": data.get("aws_access_key_id"),
        "secret_access_key": data.get("aws_secret_access_key"),
        "session_token": data.get("aws_session_token"),
        "profile": data.get("profile_name"),
        "region": data.get("region_name"),
        "endpoint_url": more.get("endpoint_url"),
        "role_arn": data.get("assume_role_arn"),
        "role_external_id": (data.get("assume_role_kwargs") or {}).get("ExternalId"),
    }


def _minio(data: Mapping[str, Any]) -> Settings:
    return _aws(data) | {
        "access_key_id": data.get("minio_root_user"),
        "secret_access_key": data.get("minio_root_password"),
    }


def _google(data: Mapping[str, Any]) -> Settings:
    info = data.get("service_account_info")
    return {
        "google_credentials_json": json.dumps(info) if isinstance(info, Mapping) else info,
        "google_credentials_file": data.get("service_account_file"),
        "google_project": data.get("project"),
    }


def _azure(data: Mapping[str, Any]) -> Settings:
    return {
        "azure_connection_string": data.get("connection_string"),
        "azure_endpoint_url": data.get("account_url"),
        "azure_tenant_id": data.get("tenant_id"),
        "azure_client_id": data.get("client_id"),
        "azure_client_secret": data.get("client_secret"),
    }


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Settings]] = {
    "aws-credentials": _aws,
    "minio-credentials": _minio,
    "gcp-credentials": _google,
    "azure-blob-storage-credentials": _azure,
}
