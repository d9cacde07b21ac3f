"""Where an object, a folder or a table lies: `s3://bucket/key`, `file:///absolute/path`, taken apart in one place.

Google's is `gs://bucket/key`. Azure's is `az://container/key`, whose account the store's settings name, as those of S3
name an endpoint; `abfss://container@account.dfs.core.windows.net/key` is the same object, and is turned into that form
where it is given (`split_account`).

A key stands in a URI as it is: nothing is percent-encoded, decoded or normalised, so that `a//b`, `a/../b`, `50%` and
`what?#1` are keys like any other, and two different keys never have the same URI. An address of the web,
`https://host/path?query`, is one where its bucket is a host; `web.address` gives it the one form in which it is a URI.
Files of the Hugging Face hub are `hf://datasets/owner/name/path` (`web.dataset`).

Frames and loops over millions of objects hold URIs as plain text. An `ObjectUri` is for where one place is meant.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from enum import StrEnum

from sightflow.schemas.redaction import redact


class Scheme(StrEnum):
    """The kinds of storage there are: the one list of them. `blocks.store.object_store` has a backend for each."""

    S3 = "s3"
    GOOGLE = "gs"
    AZURE = "az"
    HTTPS = "https"
    HUB = "hf"
    FILE = "file"

    @property
    def has_buckets(self) -> bool:
        """Whether a bucket stands before the key; local files have none."""
        return self is not Scheme.FILE

    @property
    def is_only_read(self) -> bool:
        """Whether nothing can be written there, so that no catalog lies there."""
        return self in (Scheme.HTTPS, Scheme.HUB)


_SCHEMES = "|".join(Scheme)
_BUCKETS = [scheme for scheme in Scheme if scheme.has_buckets and not scheme.is_only_read]
ALLOWED = (
    f"{', '.join(f'{scheme}://bucket/key' for scheme in _BUCKETS)}, "
    "abfss://container@account.dfs.core.windows.net/key, https://host/path, hf://datasets/owner/name and local paths"
)
"""What a user may write, in words."""
URI_PATTERN = rf"^({_SCHEMES})://"
"""A regular expression (of Python and of Polars) that every URI begins to match."""
ROOT_PATTERN = rf"^(?:{_SCHEMES})://[^/]*/?"
"""A regular expression of what stands before the key of a URI."""


AZURE_SUFFIX = "core.windows.net"
"""Of the addresses of Azure's storage; other clouds of Azure's have another."""
_ABFS = re.compile(
    r"abfss?://(\$?[a-z0-9-]{1,63})@([a-z0-9-]{1,63})\.(?:dfs|blob)\.([a-z0-9.-]{1,100})(?:/(.*))?", re.DOTALL
)


class InvalidUriError(ValueError):
    """Text that names no place in any storage; the message says what is wrong and what is allowed, without keys."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


@dataclass(frozen=True, slots=True)
class ObjectUri:
    """A place in a storage. `str()` gives its one text, from which `parse` makes it again.

    `bucket` is empty for local files, and `key` is then the absolute path without its first slash. An empty key is
    the whole bucket, or the root of the file system. As in object stores a folder is a key that ends in a slash.
    """

    scheme: Scheme
    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> ObjectUri:
        """The place that a URI names. Raises InvalidUriError if its scheme is not known or something is missing."""
        scheme, rest = split_scheme(text)
        bucket, slash, key = rest.partition("/")
        if scheme.has_buckets and not bucket:
            raise InvalidUriError(f"{text!r} names no bucket; write {scheme}://bucket/key")
        if not scheme.has_buckets and (bucket or not slash or "://" not in text):
            raise InvalidUriError(f"{text!r} is no absolute path; write {scheme}:///folder/name")
        return cls(scheme, bucket, key)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> ObjectUri:
        """A local file or folder. Raises InvalidUriError if the path is not absolute."""
        return cls.parse(f"{Scheme.FILE}://{os.fspath(path)}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    @property
    def local_path(self) -> str:
        """The path of a local file, as it stands. Raises ValueError for a URI of any other kind."""
        if self.scheme != Scheme.FILE:
            raise ValueError(f"{self} is no local file")
        return f"/{self.key}"

    @property
    def name(self) -> str:
        """What follows the last slash; empty for a folder."""
        return self.key.rpartition("/")[2]

    def with_key(self, key: str) -> ObjectUri:
        """Another key in the same bucket."""
        return replace(self, key=key)

    def join(self, name: str) -> ObjectUri:
        """What is called so in this folder, with or without its slash; `name` may hold slashes of its own."""
        return self.with_key(self._folder_key + name)

    @property
    def _folder_key(self) -> str:
        return self.key if not self.key or self.key.endswith("/") else f"{self.key}/"


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """A storage account as an `abfss://` address names it. `suffix`: what follows `.dfs.` in its host."""

    name: str
    suffix: str = AZURE_SUFFIX


def split_account(text: str) -> tuple[str, AzureAccount | None]:
    """A URI, and the storage account that it names: `abfss://` becomes `az://`, all else stays as it is.

    Raises InvalidUriError for an `abfss://` that names no container and account.
    """
    if not re.match(r"abfss?://", text):
        return text, None
    if not (found := _ABFS.fullmatch(text)):
        raise InvalidUriError(
            f"{text!r} names no container and account; write abfss://container@account.dfs.{AZURE_SUFFIX}/key"
        )
    container, name, suffix, key = found.groups()
    return f"{Scheme.AZURE}://{container}/{key or ''}", AzureAccount(name, suffix)


def split_scheme(text: str) -> tuple[Scheme, str]:
    """The kind of storage that a URI or a local path speaks of, and what follows `scheme://`.

    Nothing else is looked at. Raises InvalidUriError if the scheme is not known.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Scheme.FILE, text
    try:
        return Scheme(scheme), rest
    except ValueError:
        raise InvalidUriError(f"{text!r} has the scheme {scheme!r}; allowed: {ALLOWED}") from None
