"""Answers that hold media: previews whole, videos in the parts that a player asks for (RFC 9110, 14)."""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from sightflow.infra.gallery.media.media import Media, image_type
from sightflow.schemas.failure import Cause, Failure, StoreError

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_KEPT: Final = {"Cache-Control": "private, max-age=3600"}


def preview_response(preview: bytes | Failure) -> Response:
    """A preview, or the reason why there is none."""
    if isinstance(preview, Failure):
        return _no_media(preview)
    return Response(preview, media_type=image_type(preview), headers=_KEPT)


def video_response(media: Media, uri: str, version: str, asked: str | None) -> Response:
    """A video as it is, or the part of it that a `Range` header asks for; no other content than a video."""
    try:
        content_type = media.video_type(uri)
        if content_type is None:
            return Response("this is no video", 415, media_type="text/plain")
        size = media.size(version)
        wanted = _range(asked, size)
        if wanted is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        start, end = wanted
        parts = media.parts(uri, version, start, end)
    except StoreError as error:
        return Response(str(error), 502, media_type="text/plain")
    if isinstance(parts, Failure):
        return _no_media(parts)
    headers: dict[str, Any] = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start),
        "Cache-Control": "no-store",
    }
    if asked is None:
        return StreamingResponse(parts, 200, headers, content_type)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(parts, 206, headers, content_type)


def _range(asked: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last; None for a range that cannot be given."""
    if asked is None:
        return 0, size
    if not (found := _RANGE.fullmatch(asked.strip())) or found[1] == found[2] == "":
        return None
    if not found[1]:
        return max(size - int(found[2]), 0), size
    start, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    return (start, end) if start < end else None


def _no_media(failure: Failure) -> Response:
    status = 410 if failure.cause is Cause.CHANGED else 422
    return Response(f"{failure.cause}: {failure.message}", status, media_type="text/plain")
