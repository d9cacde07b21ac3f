"""The signature of a request with an account's key.

"Authorize with Shared Key" of the Azure Storage REST reference:
https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from sightflow.schemas.failure import StoreRefusal

_SIGNED_HEADERS = (
    "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
    "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
)  # fmt: skip


def shared_key(account: str, key: str, method: str, url: str, headers: Mapping[str, str], length: int) -> str:
    """The header `Authorization` of a request with a body of so many bytes. Raises StoreRefusal if the key is none."""
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise StoreRefusal(f"the key of the Azure account {account!r} is no Base64; copy it anew") from None
    given = dict(headers) | ({"Content-Length": str(length)} if length else {})
    own = sorted((name.lower(), value) for name, value in headers.items() if name.lower().startswith("x-ms-"))
    address = urlsplit(url)
    query = sorted((name.lower(), value) for name, value in parse_qsl(address.query, keep_blank_values=True))
    text = "\n".join(
        [
            method,
            *(given.get(name, "") for name in _SIGNED_HEADERS),
            *(f"{name}:{value}" for name, value in own),
            f"/{account}{address.path or '/'}",
            *(f"{name}:{value}" for name, value in query),
        ]
    )
    signature = base64.b64encode(hmac.digest(secret, text.encode(), hashlib.sha256)).decode()
    return f"SharedKey {account}:{signature}"
