"""Datasets of the Hugging Face hub as sources: `hf://datasets/owner/name/path`, and `name@revision` for one revision.

The form is that of huggingface_hub's `HfFileSystem`. A slash within a revision is written `%2F`. Without a revision the
files are those of `main`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from sightflow.schemas.object_uri import InvalidUriError, ObjectUri, Scheme

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_DATASET = re.compile(rf"({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._%-]{{0,249}}))?(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A repository of a dataset at a branch, a tag or a commit; `revision` as it stands in a URI, empty for `main`."""

    name: str
    revision: str = ""

    @property
    def git_revision(self) -> str:
        """The revision as git has it."""
        return unquote(self.revision) or "main"

    def uri(self, path: str) -> str:
        """The URI of a file."""
        at = f"@{self.revision}" if self.revision else ""
        return str(ObjectUri(Scheme.HUB, "datasets", f"{self.name}{at}/{path}"))


def split_dataset(uri: str) -> tuple[Dataset, str]:
    """The repository that a URI is of, and the path of the file. Raises InvalidUriError if it names none."""
    located = ObjectUri.parse(uri)
    found = _DATASET.fullmatch(located.key)
    if located.scheme is not Scheme.HUB or located.bucket != "datasets" or not found:
        raise InvalidUriError(f"{uri!r} names no dataset; write hf://datasets/owner/name/path")
    return Dataset(found[1], found[2] or ""), found[3] or ""
