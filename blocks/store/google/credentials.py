"""What opens Google Cloud Storage: the settings of a store, else application-default credentials, by google-auth.

https://cloud.google.com/docs/authentication/application-default-credentials: `GOOGLE_APPLICATION_CREDENTIALS`, the
login of gcloud, the service account of the machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from sightflow.blocks.extras import require
from sightflow.blocks.store.buckets.client import BucketSettings
from sightflow.schemas.failure import StoreRefusal
from sightflow.schemas.redaction import remember

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_HOST = "https://storage.googleapis.com"
_TAKEN_BY_DELTA = ("service_account", "authorized_user")

# What object_store takes for a service account that signs nothing; its `google_skip_signature` holds for reading alone.
_UNSIGNED = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}


class GoogleSettings(BucketSettings, Protocol):
    """What Google needs of the settings of an `ObjectStore`, where they are described."""

    google_endpoint_url: str | None
    google_credentials_file: str | None
    google_credentials_json: SecretStr | None
    google_project: str | None
    requester_pays: bool
    anonymous: bool


def host_of(settings: GoogleSettings) -> str:
    """The address of the API, without a slash at its end."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator and "://" not in emulator:
        emulator = f"http://{emulator}"
    return (settings.google_endpoint_url or emulator or _HOST).rstrip("/")


def is_unsigned(settings: GoogleSettings) -> bool:
    """Whether requests are sent without a token: of a public bucket, and to the emulator that the environment names."""
    own = settings.google_credentials_file or settings.google_credentials_json
    return settings.anonymous or bool(os.environ.get("STORAGE_EMULATOR_HOST") and not own)


def open_credentials(settings: GoogleSettings) -> Any:
    """Credentials of google-auth that give tokens. Raises MissingExtra if that is not installed, StoreRefusal if there
    are none.
    """
    require("google.auth", "google", "a login to Google Cloud Storage")
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2.credentials import Credentials as Login
    from google.oauth2.service_account import Credentials as ServiceAccount

    load_account: Any = ServiceAccount.from_service_account_info
    load_login: Any = Login.from_authorized_user_info
    own = _credentials_of(settings, settings.google_credentials_file)
    try:
        match own and own.get("type"):
            case None | {}:
                return google.auth.default(scopes=_SCOPES)[0]
            case "service_account":
                return load_account(own, scopes=_SCOPES)
            case "authorized_user":
                return load_login(own, scopes=_SCOPES)
            case kind:
                raise ValueError(f"the type {kind!r} is taken from GOOGLE_APPLICATION_CREDENTIALS alone")
    except (GoogleAuthError, OSError, ValueError) as error:
        raise StoreRefusal(
            f"no keys for Google Cloud Storage: {(str(error).splitlines() or ['?'])[0][:300]}; set "
            "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, log in (gcloud auth application-default "
            "login), or `store: {anonymous: true}` for a public bucket"
        ) from None


def delta_credentials(settings: GoogleSettings) -> dict[str, str]:
    """The credentials in the words of delta-rs. Raises StoreRefusal for those that it cannot use."""
    if is_unsigned(settings):
        return {"google_service_account_key": json.dumps(_UNSIGNED)}
    path = settings.google_credentials_file or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    own = _credentials_of(settings, path)
    kind = own.get("type")
    if own and kind not in _TAKEN_BY_DELTA:
        raise StoreRefusal(
            f"a catalog in Google Cloud Storage cannot be reached with credentials of the type {kind}, which delta-rs "
            f"does not know; give one of the types {' and '.join(_TAKEN_BY_DELTA)}, or the account of the machine"
        )
    if settings.google_credentials_json and kind == "service_account":
        return {"google_service_account_key": settings.google_credentials_json.get_secret_value()}
    if settings.google_credentials_json:
        raise StoreRefusal("delta-rs takes the login of a person as a file alone; set `google_credentials_file`")
    # Without any, delta-rs looks for the login of gcloud and the account of the machine, as google-auth does.
    return {"google_application_credentials": str(Path(path).expanduser())} if path else {}


def _credentials_of(settings: GoogleSettings, path: str | None) -> dict[str, Any]:
    """The credentials that the settings hold or a file does, in the form of Google's files; empty if there are none."""
    secret = settings.google_credentials_json
    if not secret and not path:
        return {}
    try:
        text = secret.get_secret_value() if secret else Path(str(path)).expanduser().read_text()
        found = dict(json.loads(text))
    except (OSError, ValueError, TypeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no JSON object"
        where = "of the store" if secret else path
        raise StoreRefusal(f"the Google credentials {where} cannot be read: {said}") from None
    for name in ("private_key", "client_secret", "refresh_token"):
        remember(str(found.get(name) or ""))
    return found
