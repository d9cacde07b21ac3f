"""The Prefect server that this process talks to: whether it answers, and whether it takes the credentials."""

from __future__ import annotations

import base64
import os
import sys
import time
import tomllib
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sightflow.schemas.failure import SightflowError
from sightflow.schemas.redaction import redact, remember

_PAUSE_SECONDS = 1.0


class PrefectAway(SightflowError):
    """The configured Prefect server does not answer."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"Prefect is configured with {address}, and no server answers there; start it, or run "
            "`prefect config unset PREFECT_API_URL` (or unset the variable) to let this run start one of its own"
        )
        self.address = redact(address)


def configured_url() -> str | None:
    """The address of the API of the server that Prefect is configured with, or None.

    Prefect, which takes longer to import than a run with nothing to do takes, is asked only where it might know one.
    """
    if not _may_be_configured():
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url or None


def _may_be_configured() -> bool:
    """Whether anything that Prefect reads its settings from could name a server.

    It reads the environment, `.env`, `prefect.toml` and `pyproject.toml` of the working folder, and a profile
    (https://docs.prefect.io/v3/concepts/settings-and-profiles).
    """
    names = {name.upper() for name, value in os.environ.items() if value}
    if "prefect" in sys.modules or names & {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}:
        return True
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    dotenv = Path(".env")
    try:
        if Path("prefect.toml").exists() or (dotenv.exists() and "prefect" in dotenv.read_text().lower()):
            return True
        if "prefect" in _read_toml(Path("pyproject.toml")).get("tool", {}):
            return True
        profiles = _read_toml(home / "profiles.toml")
        return "PREFECT_API_URL" in profiles.get("profiles", {}).get(profiles.get("active"), {})
    except (OSError, ValueError, TypeError, AttributeError):
        return True  # Prefect says what is wrong with it


def _read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text()) if path.exists() else {}


def configured_api() -> str:
    """The address of the UI of the Prefect server that this process talks to.

    Raises SightflowError if none is configured or it refuses the credentials, PrefectAway if it does not answer.
    """
    from prefect.settings import get_current_settings

    if not (configured := get_current_settings().api.url):
        raise SightflowError(
            "no Prefect server is configured; start one with `prefect server start`, and say where it is: "
            "prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    if urlsplit(configured).username is not None:
        raise SightflowError(
            f"PREFECT_API_URL ({configured}) holds a user name or a password; leave them out, and set "
            "PREFECT_API_AUTH_STRING to user:password"
        )
    if not is_healthy(configured):
        raise PrefectAway(configured)
    if answered_status(configured, "admin/version", _auth_string()) == HTTPStatus.UNAUTHORIZED:
        raise SightflowError(
            f"the Prefect server at {configured} refuses the credentials: set PREFECT_API_AUTH_STRING to "
            "what its PREFECT_SERVER_API_AUTH_STRING is"
        )
    return (get_current_settings().ui_url or configured).removesuffix("/api")


def await_api(say: Callable[[str], None]) -> str:
    """As `configured_api`, for what is started along with the server: one that does not answer yet is waited for."""
    announced = False
    while True:
        try:
            return configured_api()
        except PrefectAway as error:
            if not announced:
                say(f"{error.address} does not answer; waiting for it")
            announced = True
            time.sleep(_PAUSE_SECONDS)


def is_healthy(api_url: str) -> bool:
    """Whether a Prefect server answers at this address."""
    return answered_status(api_url, "health", _auth_string()) == HTTPStatus.OK


def answered_status(api_url: str, path: str, auth_string: str | None) -> int | None:
    """The status of the answer to a GET, with `auth_string` (`user:password`) if given; None without an answer."""
    import urllib.error  # with the library of TLS, which is needed where a server is configured
    import urllib.request

    request = urllib.request.Request(f"{api_url.rstrip('/')}/{path}")  # noqa: S310
    if auth_string:
        # Not sent on to where an answer redirects to.
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(auth_string.encode()).decode('ascii')}"
        )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _auth_string() -> str | None:
    from prefect.settings import get_current_settings

    configured = get_current_settings().api.auth_string
    return remember(configured.get_secret_value()) if configured else None
