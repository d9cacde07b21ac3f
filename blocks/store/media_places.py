"""Which addresses in the rows of a catalog are followed to their media: a catalog is data, and may be another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sightflow.schemas.failure import SpecError
from sightflow.schemas.object_uri import InvalidUriError, ObjectUri, Scheme
from sightflow.schemas.source_pattern import alternatives, canonical_source, literal_prefix


@dataclass(frozen=True)
class MediaPlaces:
    """What may be read for a catalog at `catalog_uri`.

    Objects of buckets, which are asked of the user's own endpoint with the user's own keys; and local files, if the
    catalog is local too. A host of the web, a dataset of the hub, or a file of this machine that a catalog of a bucket
    names is read only if it begins with one of `confirmed`: a spec's `source`, or what the user has said.
    """

    catalog_uri: str
    confirmed: tuple[str, ...] = ()

    @classmethod
    def of(cls, catalog_uri: str, source: Sequence[str] = (), given: Sequence[str] = ()) -> MediaPlaces:
        """Those of a spec's `source`, patterns, and of folders or hosts that the user has named. Raises SpecError."""
        try:
            folders = [str(ObjectUri.parse(literal_prefix(canonical_source(each)))) for each in given]
        except ValueError as error:
            raise SpecError(f"--media-from: {error}") from None
        prefixes = [literal_prefix(each) for pattern in source for each in alternatives(pattern)]
        return cls(catalog_uri, (*prefixes, *(f"{each.rstrip('/')}/" for each in folders)))

    def refused(self, uri: str) -> str | None:
        """Why the media at an address are not read; None if they may be."""
        try:
            there = ObjectUri.parse(uri)
        except InvalidUriError as error:
            return str(error)
        if "\0" in uri:
            return "no file has such a name"
        is_local = there.scheme is Scheme.FILE
        if there.scheme in (Scheme.S3, Scheme.GOOGLE, Scheme.AZURE):
            return None
        if is_local and ObjectUri.parse(self.catalog_uri).scheme is Scheme.FILE:
            return None
        if ".." not in there.key.split("/") and uri.startswith(self.confirmed):
            return None
        place = _place(there)
        return (
            f"nobody but the catalog says that media are to be read from {place}; if you trust it, add --media-from "
            f"{place}, or name the spec in place of the catalog"
        )


def _place(there: ObjectUri) -> str:
    """What a user would confirm: a host, a dataset, or the folder of a file."""
    match there.scheme:
        case Scheme.FILE:
            return f"file:///{there.key.rpartition('/')[0]}"
        case Scheme.HUB:
            return f"{there.scheme}://{'/'.join([there.bucket, *there.key.split('/')[:2]])}"
    return f"{there.scheme}://{there.bucket}"
