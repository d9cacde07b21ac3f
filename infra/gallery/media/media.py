"""Images and videos for a browser: previews by our own decoder, within its bounds, and videos in parts as they are.

The bytes of an image never reach the browser: what it shows is made here, upright, without metadata, whatever the
format. So it lies under the boxes exactly as the model saw it, and no hostile file meets another decoder.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sightflow.blocks.store.inventory import size_of
from sightflow.blocks.store.media_places import MediaPlaces
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.gallery.media.preview_cache import PreviewCache
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, Stage, StoreError
from sightflow.schemas.media import MediaFacts, MediaFile
from sightflow.schemas.policy import Limits
from sightflow.tasks.runtime.temporary_folder import TemporaryFolder

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE: Final = 320
PICTURE_SIDE: Final = 2048
_LOSSLESS_PIXELS: Final = 1_000_000
_DECODED_AT_ONCE: Final = 2
_MOST_WORKING_BYTES: Final = 320 * 2**20
_MOST_VIDEO_BYTES: Final = 256 * 2**20  # of which a still is made; more is only played
_FILES_KEPT: Final = 3
_PART_BYTES: Final = 2**20
_FORM: Final = "2"  # of previews: what is raised when they come out otherwise
# Browsers look into the container, and refuse some by their name.
_PLAYED_AS: Final = {"video/quicktime": "video/mp4", "video/x-m4v": "video/mp4", "video/x-matroska": "video/webm"}


class Media:
    """The media of one catalog, read with the reader's own keys, from `places` alone."""

    def __init__(
        self,
        store: ObjectStore,
        catalog_uri: str,
        limits: Limits | None = None,
        cache: PreviewCache | None = None,
        places: MediaPlaces | None = None,
    ) -> None:
        self._store, self._catalog_uri = store, catalog_uri
        self._places = places or MediaPlaces(catalog_uri)
        self._limits, self._cache = limits or Limits(), cache or PreviewCache()
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)
        self._files: OrderedDict[tuple[str, str], MediaFile] = OrderedDict()
        self._files_lock = threading.Lock()
        self._folder: TemporaryFolder | None = None

    def kind(self, uri: str, known: str | None) -> MediaKind:
        """Image or video: as a row says it, else by the first bytes."""
        from sightflow.tasks.media.media_kind import START_BYTES, media_kind

        if known in set(MediaKind):
            return MediaKind(known)
        if self._places.refused(uri):
            return MediaKind.IMAGE
        start = next(self._store.read_starts([uri], START_BYTES))
        return media_kind(start or b"")

    def preview(self, uri: str, version: str, kind: MediaKind, side: int, seconds: float | None = None) -> Any:
        """A picture of an object of at most `side` pixels a side: bytes of a PNG or JPEG, or the Failure.

        `seconds`: of a video, the frame that is shown then; unset, the one in its middle.
        """
        seconds = seconds if kind is MediaKind.VIDEO else None
        key = (_FORM, self._catalog_uri, uri, version, str(side), "" if seconds is None else f"{seconds:.3f}")
        if why := self._places.refused(uri):
            return Failure(Cause.FETCH, why, Stage.FETCH)
        if (held := self._cache.get(*key)) is not None:
            return held
        with self._decoding:
            try:
                made = self._still(uri, version, side, seconds) if kind is MediaKind.VIDEO else None
                made = made or self._picture(uri, version, side)
            except StoreError as error:
                return Failure(Cause.FETCH, str(error), Stage.FETCH)
            if isinstance(made, Failure):
                return made
            content = _encoded(made, side)
        self._cache.put(content, *key)
        return content

    def facts(self, uri: str, version: str) -> dict[str, Any] | Failure:
        """What a row says of an object that no row is about yet; see `schemas.media.MediaFacts`."""
        from sightflow.tasks.media.decode_image import decode
        from sightflow.tasks.media.video_container import VideoError
        from sightflow.tasks.media.video_index import index_video

        if why := self._places.refused(uri):
            return Failure(Cause.FETCH, why, Stage.FETCH)
        kind = self.kind(uri, None)
        if kind is MediaKind.VIDEO:
            file = self._file(uri, version)
            if isinstance(file, Failure):
                return file
            try:
                index = index_video(file.path, self._limits)
            except VideoError as error:
                return error.failure
            found = MediaFacts(kind, index.width, index.height, file.sha256, index.duration, index.frame_rate)
        else:
            (content,) = self._store.read_many([(uri, version)], self._limits.max_bytes)
            decoded = content if isinstance(content, Failure) else decode(content, self._limits, reserve=_bounded)
            if isinstance(decoded, Failure):
                return decoded
            found = MediaFacts.of(decoded)
        return {**vars(found), "media_kind": str(found.kind)}

    def _picture(self, uri: str, version: str, side: int) -> Image.Image | Failure:
        from sightflow.tasks.media.decode_image import decode

        (content,) = self._store.read_many([(uri, version)], self._limits.max_bytes)
        if isinstance(content, Failure):
            return content
        decoded = decode(content, self._limits, side, _bounded)
        return decoded if isinstance(decoded, Failure) else decoded.pixels

    def _still(self, uri: str, version: str, side: int, seconds: float | None) -> Image.Image | Failure:
        from sightflow.tasks.media.read_video import read_frames
        from sightflow.tasks.media.video_container import VideoError
        from sightflow.tasks.media.video_index import index_video

        file = self._file(uri, version)
        if isinstance(file, Failure):
            return file
        try:
            index = index_video(file.path, self._limits)
            frame = index.frame_count // 2 if seconds is None else index.frame_at(seconds)
            return next(read_frames(file.path, index, [frame], side))[1]
        except VideoError as error:
            return error.failure

    def _file(self, uri: str, version: str) -> MediaFile | Failure:
        """A video as a file; the last few stay."""
        with self._files_lock:
            if file := self._files.get((uri, version)):
                self._files.move_to_end((uri, version))
                return file
            if self._folder is None:
                self._folder = TemporaryFolder("videos")
            (found,) = self._store.download_many([(uri, version)], self._folder.path, _MOST_VIDEO_BYTES)
            if isinstance(found, MediaFile):
                self._files[uri, version] = found
                if len(self._files) > _FILES_KEPT:
                    _, old = self._files.popitem(last=False)
                    if old.path.is_relative_to(self._folder.path):
                        old.path.unlink(missing_ok=True)
            return found

    # --- videos as they are ---------------------------------------------------------------------

    def video_type(self, uri: str) -> str | None:
        """The media type of a video by its first bytes; None for what is none. Raises StoreError."""
        import filetype

        from sightflow.tasks.media.media_kind import START_BYTES, media_kind

        if why := self._places.refused(uri):
            raise StoreError(why)
        start = next(self._store.read_starts([uri], START_BYTES)) or b""
        if media_kind(start) is not MediaKind.VIDEO:
            return None
        kind = filetype.guess(start)
        name = kind.mime if kind is not None and kind.mime.startswith("video/") else "video/mp4"
        return _PLAYED_AS.get(name, name)

    def size(self, version: str) -> int:
        """The bytes of an object, as its version tells."""
        return size_of(version)

    def parts(self, uri: str, version: str, start: int, end: int) -> Iterator[bytes] | Failure:
        """The bytes of an object from `start` to before `end`, a mebibyte at a time; or why not even the first."""
        first = self._store.read_part((uri, version), start, min(_PART_BYTES, end - start))
        if isinstance(first, Failure):
            return first

        def parts() -> Iterator[bytes]:
            yield first
            at = start + len(first)
            while at < end:
                part = self._store.read_part((uri, version), at, min(_PART_BYTES, end - at))
                if isinstance(part, Failure) or not part:
                    return  # the answer ends short of what it says, by which the browser sees it
                yield part
                at += len(part)

        return parts()

    def download(self, uri: str, version: str) -> Path | Failure:
        """A whole video as a file, for as long as only few others are asked for."""
        found = self._file(uri, version)
        return found if isinstance(found, Failure) else found.path


def _bounded(size: int) -> None:
    """Refuse what takes more memory than a preview is worth."""
    from sightflow.tasks.memory.pixel_budget import NeverFits

    if size > _MOST_WORKING_BYTES:
        raise NeverFits(f"decoding it takes {size / 2**20:,.0f} MiB, too much for a preview")


def _encoded(image: Image.Image, side: int) -> bytes:
    from PIL import Image as Pillow

    image.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    written = io.BytesIO()
    if side > THUMBNAIL_SIDE and image.width * image.height <= _LOSSLESS_PIXELS:
        image.save(written, "PNG")
    else:
        image.save(written, "JPEG", quality=90 if side > THUMBNAIL_SIDE else 82, subsampling=0)
    return written.getvalue()


def image_type(content: bytes) -> str:
    """The media type of a preview."""
    return "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
