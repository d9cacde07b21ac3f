"""Taking keys out of text: the one place that everything printed, logged and stored passes through.

What is taken for a key: the user information of an address, the forms that vendors give their keys, what follows a name
that says key, token, secret, password or signature, and the secrets that this process itself holds.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

HIDDEN = "***"
SHORTEST_SECRET = 8
"""What is shorter ("demo", "minio") protects nothing, and is part of ordinary words."""
_LONG = 16  # what is shorter may be a part of a bucket's name all the same
_MOST_REMEMBERED = 256  # the keys of a role are renewed every hour
_remembered: dict[str, None] = {}
_lock = threading.Lock()

# Lengths are bounded, so that hostile text costs time in proportion to its length.
_USER_INFO = re.compile(
    r"(?<=:/)(/?)"  # one slash: an address that was taken for a path
    # No user, but a container of Azure: abfss://container@account.dfs.core.windows.net/folder
    r"(?!(?:(?<=abfss://)|(?<=abfs://))[a-z0-9$-]{1,63}@[a-z0-9-]{1,63}\.(?:dfs|blob)\.)"
    # `user:password`: the password may hold slashes, as AWS's do; digits and a slash after the colon are a port.
    r"(?:[^\s/?#@:'\"<>]{0,256}:(?!\d{1,5}[/?#])[^\s'\"<>]{0,256}|[^\s/?#@'\"<>]{1,256})@"
)
_VENDOR_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{12,}|sk-[\w-]{6,}|AIza[\w-]{20,}|gh[oprsu]_\w{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|xox[abeoprs]-[\w-]{10,}|pn[ub]_\w{16,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)",
    re.ASCII,
)
_WORDS = (
    r"token|secret|password|passwd|passphrase|signature|credential|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|secret[_-]?key|auth[_-]?string|account[_-]?key|connection[_-]?string"
)
_IN_QUERY = r"[?&](?:[\w.-]{0,40}[_.-])?(?:key|sig|auth|code|pwd)="  # `subscription-key=` and the like
_ASSIGNED = re.compile(
    rf"((?:{_WORDS})[\"']?\s{{0,3}}(?:[=>]|:(?=\s{{0,3}}[\"']))\s{{0,3}}[\"']?|{_IN_QUERY})"
    r"[^\s\"'&,;(){}\[\]<>]+",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"(?:https?|az|abfss?)://")
_HEADERS = re.compile(
    r"((?:authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:(?:basic|bearer|digest|token|aws4-hmac-sha256)\s{1,3})?)"
    r"|\bx-[\w-]{0,40}(?:key|token|secret)\s{0,3}:\s{0,3}"
    r"|\b(?:bearer|basic)\s{1,3}(?=[^\s\"']{0,64}[\d._=/+]|[^\s\"']{20}))"
    r"[^\s\"',;<>]{3,}",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(
    r"(?:KEY|SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|AUTH_STRING|CONNECTION_STRING|_PWD)(?:_(?!FILE|PATH|DIR)|$)"
)
_SECRET_NAME = re.compile(rf"(?:^|[_-])(?:{_WORDS}|key|auth|pwd)s?$", re.IGNORECASE)


def redact(text: str) -> str:
    """Text with every key in it replaced by `***`."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """`redact` for many texts at once: the secrets of this process are looked up now."""
    own = _own_secrets()

    def redacted(text: str) -> str:
        for secret in own:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        if ":/" in text:
            text = _USER_INFO.sub(rf"\g<1>{HIDDEN}@", text)
        text = _VENDOR_KEYS.sub(HIDDEN, text)
        text = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
        return _HEADERS.sub(rf"\g<1>{HIDDEN}", text)

    return redacted


def redact_values(document: Any) -> Any:
    """A JSON document with every key in its texts replaced; the names of its fields stay."""
    clean = redactor()

    def redacted(value: Any) -> Any:
        match value:
            case str():
                return clean(value)
            case Mapping():
                return {name: redacted(member) for name, member in value.items()}
            case list() | tuple():
                return [redacted(member) for member in value]
            case _:
                return value

    return redacted(document)


def remember(secret: str) -> str:
    """Have a secret that this process holds taken out of all text from now on; it is given back."""
    if len(secret) >= SHORTEST_SECRET:
        with _lock:
            _remembered.pop(secret, None)
            _remembered[secret] = None
            while len(_remembered) > _MOST_REMEMBERED:
                del _remembered[next(iter(_remembered))]
    return secret


Place = tuple[str | int, ...]
"""Where a value stands in a document: the keys and indices that lead to it."""


def secrets_in(document: Any) -> Iterator[tuple[Place, str]]:
    """The places of a document (mappings, lists and scalars) that hold a key, and what is wrong there, without it."""
    own = [secret for secret in _own_secrets() if len(secret) >= _LONG]

    def found(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
        match value:
            case str() if ":/" in value and holds_user(value):
                yield place, "holds a user name or a password"
            case str() if _ADDRESS.match(value) and _ASSIGNED.search(value):
                yield place, "holds a key in its query"
            case str() if _VENDOR_KEYS.search(value) or any(secret in value for secret in own):
                yield place, "holds what looks like a key"
            case Mapping():
                for name, member in value.items():
                    yield from found(member, (*place, name))
                    if isinstance(name, str):
                        yield from ((place, f"{why} in the place of a name") for _, why in found(name, ()))
            case list() | tuple():
                for index, member in enumerate(value):
                    yield from found(member, (*place, index))

    return found(document, ())


def holds_user(address: str) -> bool:
    """Whether an address holds a user name or a password, as in `scheme://user:password@host`."""
    return bool(_USER_INFO.search(address))


def names_a_secret(name: str) -> bool:
    """Whether a setting of this name holds a key, e.g. `api_key` or `password`."""
    return bool(_SECRET_NAME.search(name))


def _own_secrets() -> list[str]:
    """What this process was given to keep, by its environment or by `remember`; the longest first."""
    with _lock:
        found = dict(_remembered)
    for name, value in os.environ.items():
        if _is_secret_variable(name):
            found[value] = None
            found[value.rpartition(":")[2]] = None  # of `user:password`
        elif "@" in value and "://" in value:
            try:
                found[urlsplit(value).password or ""] = None
            except ValueError:
                continue
    held = {secret.strip() for secret in found}
    held |= {quote(secret, safe="") for secret in held}
    return sorted((secret for secret in held if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)


@cache
def _is_secret_variable(name: str) -> bool:
    return bool(_SECRET_VARIABLE.search(name.upper()))


# --- logs -----------------------------------------------------------------------------------------


def redact_logs() -> None:
    """Have every record that is logged in this process from now on redacted, message and traceback; once is enough.

    Records without a key in them stay exactly as they are.
    """
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a message that does not fit its arguments; `logging` says so itself
            return record
        if (clean := redact(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = redacted_traceback(record.exc_info[1])
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


def redacted_traceback(error: BaseException) -> str:
    """The traceback of an error as Python prints it, without keys and without the last line's end."""
    return redact("".join(traceback.format_exception(error)).rstrip("\n"))
