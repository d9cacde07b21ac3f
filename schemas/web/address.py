"""Addresses of the web as URIs of objects: `https://host/path?query`, each in one form (RFC 3986, section 6.2).

The host is in lower case and ASCII (IDNA), the port of HTTPS is left out, `.` and `..` lead where they lead, what may
not stand in an address is percent-encoded as UTF-8, and what follows `#` is left out. What is encoded stays encoded, so
that an address is asked for just as its server has given it, but for the case of its hexadecimal digits.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from sightflow.schemas.object_uri import split_scheme
from sightflow.schemas.redaction import secrets_in

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_.])?|\[[0-9a-f:.]{2,45}\]")
_MOST_BYTES = 8000  # servers take no longer request lines
_UNENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_DOT = re.compile(r"%2e", re.IGNORECASE)
_ALLOWED = "%/:@!$&'()*+,;=~?"
_ALLOWED_IN_PATTERN = _ALLOWED + "[]{}^"


def canonical_address(text: str) -> str:
    """The one form of an address. Raises ValueError for what is none, or holds a key."""
    rest = split_scheme(text.strip())[1]
    if not rest or "\\" in rest or any(ord(character) < 32 for character in rest):
        raise ValueError("it is no address of the web")
    parts = urlsplit(f"https://{rest}")
    host, port = _host(parts.hostname or ""), parts.port
    if parts.username is not None or any(secrets_in(text.strip())):
        raise ValueError("it holds a password or a key")
    path = _encoded(_without_dots(parts.path) or "/", _ALLOWED.replace("?", ""))
    query = f"?{_encoded(parts.query, _ALLOWED)}" if parts.query else ""
    address = f"https://{host}{'' if port in (None, 443) else f':{port}'}{path}{query}"
    if len(address) > _MOST_BYTES:
        raise ValueError("it is longer than any address")
    return address


def canonical_address_pattern(text: str) -> str:
    """The pattern of addresses in their one form, as far as its literal parts go. Raises ValueError as above."""
    scheme, rest = split_scheme(text)
    host, slash, path = rest.partition("/")
    root = canonical_address(f"{scheme}://{host}/")
    if "#" in path:
        raise ValueError("no address holds a #; what follows it is not asked for")
    return root + (_encoded(path, _ALLOWED_IN_PATTERN) if slash else "")


def _host(name: str) -> str:
    if ":" in name:
        name = f"[{name}]"
    elif not name.isascii():
        name = name.encode("idna").decode()
    if not _HOST.fullmatch(name.lower()):
        raise ValueError("it names no host")
    return name.lower()


def _encoded(text: str, allowed: str) -> str:
    kept = quote(_UNENCODED.sub("%25", text), safe=allowed)
    return _ENCODED.sub(lambda code: code[0].upper(), kept)


def _without_dots(path: str) -> str:
    if not re.search(r"/(?:\.|%2e){1,2}(?:/|$)", path, re.IGNORECASE):
        return path
    kept = list[str]()
    segments = path.split("/")[1:]
    for place, segment in enumerate(segments):
        match _DOT.sub(".", segment):
            case "." | ".." as dots:
                if dots == ".." and kept:
                    kept.pop()
                if place == len(segments) - 1:
                    kept.append("")
            case _:
                kept.append(segment)
    return "/" + "/".join(kept)
