"""Files of datasets on the Hugging Face hub: listed, looked up and read by the hub's own API, at a revision.

https://huggingface.co/docs/hub/api: the tree of a repository, the information about paths, and `resolve` for a file.
The version of a file is the hash of its content: SHA-256 of what lies in large file storage, else git's own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any
from urllib.parse import quote, urlsplit

import polars as pl
from fsspec.asyn import get_loop, sync

from sightflow.blocks.store.backend import UriFilter
from sightflow.blocks.store.buckets.client import Head
from sightflow.blocks.store.inventory import ListedObject, to_inventory, version_of
from sightflow.blocks.store.web.answers import entries_of, next_page, read_json
from sightflow.blocks.store.web.backend import ReadOnlyBackend
from sightflow.blocks.store.web.client import WebClient, range_of
from sightflow.blocks.store.web.session import RefusedByServer, WebSession, WebSettings
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError, StoreRefusal
from sightflow.schemas.object_uri import InvalidUriError, ObjectUri, Scheme
from sightflow.schemas.redaction import remember
from sightflow.schemas.run.discovered import Skips
from sightflow.schemas.source_pattern import alternatives, literal_prefix
from sightflow.schemas.web.dataset import Dataset, split_dataset

_PUBLIC_HUB = "https://huggingface.co"
_PATHS_AT_ONCE = 500
_NO_ENTRY = "EntryNotFound"


class HubClient(WebClient):
    """`BucketClient` for `hf://`. The hub is HF_ENDPOINT's, or the public one; HF_TOKEN goes to it and nowhere else."""

    scheme = Scheme.HUB

    def __init__(self, settings: WebSettings) -> None:
        super().__init__(settings)
        given = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
        self.endpoint = given or _PUBLIC_HUB
        # A hub of one's own may well be on a private network.
        self._web = WebSession(settings, private_addresses=bool(given))

    @property
    def _secret(self) -> dict[str, str]:
        token = os.environ.get("HF_TOKEN", "").strip()
        return {"Authorization": f"Bearer {remember(token)}"} if token else {}

    async def tree(self, dataset: Dataset, folder: str) -> AsyncIterator[list[Any]]:
        """The pages of all that lies in a folder of a repository and those below it, each a list of entries."""
        url = f"{self._api(dataset, 'tree')}{f'/{quote(folder)}' if folder else ''}?recursive=true"
        seen = set[str]()
        while url:
            if url in seen:
                raise StoreError(f"{dataset.uri(folder)} cannot be listed: the hub's pages go in circles")
            seen.add(url)
            at = url

            async def attempt() -> tuple[list[Any], str]:
                async with self._web.request("GET", at, secret=self._secret) as answer:
                    return await read_json(answer, list), next_page(answer, self.endpoint)

            entries, url = await self.retry(attempt)
            yield entries

    async def paths(self, dataset: Dataset, paths: Sequence[str]) -> list[Any]:
        """The entries of those of some paths that are there."""

        async def attempt() -> list[Any]:
            asked = {"paths": list(paths), "expand": False}
            url = self._api(dataset, "paths-info")
            async with self._web.request("POST", url, secret=self._secret, json=asked) as answer:
                return await read_json(answer, list)

        return await self.retry(attempt)

    def _api(self, dataset: Dataset, what: str) -> str:
        return f"{self.endpoint}/api/datasets/{dataset.name}/{what}/{quote(dataset.git_revision, safe='')}"

    @asynccontextmanager
    async def _get(
        self, uri: ObjectUri, length: int | None = None, start: int = 0
    ) -> AsyncIterator[tuple[Any, Head | None]]:
        dataset, path = split_dataset(str(uri))
        revision = quote(dataset.git_revision, safe="")
        url = f"{self.endpoint}/datasets/{dataset.name}/resolve/{revision}/{quote(path)}"
        hashes: list[str] = []

        def told(headers: Any) -> None:
            # A redirect to where large files lie tells the hash by the first, an answer of the hub's own by the other.
            if found := headers.get("X-Linked-ETag") or headers.get("ETag"):
                hashes.append(found.removeprefix("W/").strip('"'))

        async with self._web.request("GET", url, range_of(length, start), self._secret, told=told) as answer:
            size = answer.content_length
            yield answer, ((hashes[0], size or 0, None) if hashes else None)

    def store_error(self, error: Exception, uri: ObjectUri, attempted: str = "read") -> StoreError:
        if isinstance(error, RefusedByServer) and error.status in (401, 403, 404):
            return StoreRefusal(
                f"{uri} cannot be {attempted}: {self.redacted(error)}, by {urlsplit(self.endpoint).hostname}; "
                "check the name and the revision, and HF_TOKEN if it is private or gated"
            )
        return super().store_error(error, uri, attempted)


class HubBackend(ReadOnlyBackend):
    """`StorageBackend` for `hf://`."""

    def __init__(self, settings: WebSettings) -> None:
        self._hub = HubClient(settings)
        super().__init__(self._hub, settings)

    def check(self, pattern: str) -> None:
        for dataset, folder in _roots([pattern]):
            sync(get_loop(), self._first_page, dataset, folder)

    async def _first_page(self, dataset: Dataset, folder: str) -> None:
        async for _ in self._tree(dataset, folder):
            return

    def inventory(self, patterns: Sequence[str], include: UriFilter, skips: Skips) -> pl.DataFrame:
        async def listed() -> list[ListedObject]:
            found: list[ListedObject] = []
            for dataset, folder in _roots(patterns):
                async for page in self._tree(dataset, folder):
                    found += _objects(dataset, page, skips)
            return [each for each in found if include(each[0])]

        return to_inventory(sync(get_loop(), listed))

    def list_prefix(self, prefix: ObjectUri) -> list[str]:
        return self.inventory([str(prefix)], lambda uri: uri.startswith(str(prefix)), Skips())["uri"].to_list()

    async def _tree(self, dataset: Dataset, folder: str) -> AsyncIterator[list[Any]]:
        """The pages of a folder; none if there is no such folder. Raises StoreError."""
        try:
            async for page in self._hub.tree(dataset, folder):
                yield page
        except Exception as error:  # the libraries have no common class of errors
            if isinstance(error, RefusedByServer) and error.code == _NO_ENTRY:
                return
            where = ObjectUri.parse(dataset.uri(folder))
            raise self._hub.store_error(error, where, "listed") from None

    def head_many(self, uris: Sequence[str]) -> list[ListedObject | Failure | None]:
        """Hundreds of one repository in a request. What the hub does not name, of a revision that it has, is gone."""
        answers: dict[str, ListedObject | Failure | None] = {}
        batches: list[tuple[Dataset, list[str]]] = []
        by_dataset: dict[Dataset, list[str]] = {}
        for uri in dict.fromkeys(uris):
            try:
                dataset, path = split_dataset(uri)
                path.encode()
                by_dataset.setdefault(dataset, []).append(path)
            except (InvalidUriError, UnicodeEncodeError) as error:
                answers[uri] = _failure(str(error))
        for dataset, paths in by_dataset.items():
            batches += [(dataset, paths[k : k + _PATHS_AT_ONCE]) for k in range(0, len(paths), _PATHS_AT_ONCE)]
        for told in self._limit.map(self._look_up, batches):
            answers |= told
        return [answers[uri] for uri in uris]

    async def _look_up(self, batch: tuple[Dataset, list[str]]) -> dict[str, ListedObject | Failure | None]:
        dataset, paths = batch
        try:
            skips = Skips()
            found = {each[0]: each for each in _objects(dataset, await self._hub.paths(dataset, paths), skips)}
        except Exception as error:  # whatever is wrong with one repository costs the others nothing
            said = _failure(f"it cannot be looked up: {self._hub.redacted(error)}")
            return {dataset.uri(path): said for path in paths}
        absent = _failure("the hub's answer makes no sense") if skips.summary else None
        return {uri: found.get(uri, absent) for uri in map(dataset.uri, paths)}


def _roots(patterns: Sequence[str]) -> Iterable[tuple[Dataset, str]]:
    """The folders that hold all that patterns match, none below another."""
    places = set[tuple[Dataset, str]]()
    for pattern in chain.from_iterable(map(alternatives, patterns)):
        dataset, path = split_dataset(literal_prefix(pattern))
        places.add((dataset, path.rpartition("/")[0]))
    return sorted(
        (
            (dataset, folder)
            for dataset, folder in places
            if not any(
                dataset == other and folder != above and (not above or folder.startswith(f"{above}/"))
                for other, above in places
            )
        ),
        key=str,
    )


def _objects(dataset: Dataset, entries: list[Any], skips: Skips) -> list[ListedObject]:
    """The files among entries; one that makes no sense goes to `skips`."""
    found: list[ListedObject] = []
    for path, digest, size in entries_of(entries, lambda: skips.add(dataset.uri(""), "an entry that makes no sense")):
        found.append((dataset.uri(path), version_of(digest, size), size, None))
    return found


def _failure(message: str) -> Failure:
    return Failure(Cause.FETCH, message, Stage.FETCH)
