"""The connection that DashScope's SDK is given, in a module of its own since it needs `requests` when it is defined."""

from __future__ import annotations

import time
from typing import Any

import requests
import urllib3

from sightflow.blocks.models.engines.providers.transport.bounded_answers import bounded


class NoAnswer(Exception):
    """No whole answer came back; of another type than the one for which the SDK sends once more by itself."""


class NoConnection(NoAnswer):
    """There was no connection that anything could be sent on."""


class OneTry(requests.Session):
    """A session that hides dropped connections from the SDK, which would repeat a request that may be billed, and that
    bounds every answer. `seconds`: in which its body has to be there.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.headers["Accept-Encoding"] = "identity"

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        deadline, kind = time.monotonic() + self._seconds, NoAnswer
        try:
            response = super().post(*args, **{**kwargs, "stream": True})
            encoding = response.headers.pop("Content-Encoding", "")
            with response:
                chunks = response.raw.stream(1 << 16, decode_content=False)
                # What `content` would read without a bound; requests has no other place for it.
                response._content = b"".join(bounded(chunks, encoding, deadline))
            return response
        except urllib3.exceptions.HTTPError as error:  # of a body; requests translates it only where it reads itself
            message = f"{type(error).__name__}: {error}"
        except requests.RequestException as error:
            message = f"{type(error).__name__}: {error}"
            why = getattr(error.args[0] if error.args else None, "reason", None)
            if isinstance(why, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
                kind = NoConnection
        raise kind(message)
