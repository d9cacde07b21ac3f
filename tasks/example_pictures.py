"""A few of a run's objects as small pictures, with the boxes that were found in them."""

from __future__ import annotations

import base64
import io
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from sightflow.schemas.capability import MediaKind
from sightflow.schemas.media import DecodedImage, MediaFile
from sightflow.schemas.policy import Limits
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.media.decode_image import decode
from sightflow.tasks.media.read_video import read_frames
from sightflow.tasks.media.video_container import VideoError
from sightflow.tasks.media.video_index import index_video
from sightflow.tasks.open import open_store
from sightflow.tasks.runtime.artifacts.examples import Examples, Row

_SIDE = 320
_MOST_BYTES = 16 * 2**20
_LIMITS = Limits(max_bytes=_MOST_BYTES, max_video_bytes=_MOST_BYTES, max_seconds=600)
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000")


def pictures(examples: Examples, spec: EnrichmentSpec) -> dict[str, bytes]:
    """Each object as a JPEG of at most 320 x 320 pixels, with its boxes drawn; a video as its frame with the most of
    them. Objects past 16 MiB, gone, changed or not to be decoded have none.
    """
    rows = {uri: of_one for uri, of_one in examples.published.items() if of_one}
    by_kind = {
        kind: [uri for uri, of_one in rows.items() if of_one[0]["media_kind"] == str(kind)] for kind in MediaKind
    }
    return _of_images(by_kind[MediaKind.IMAGE], rows, spec) | _of_videos(by_kind[MediaKind.VIDEO], rows, spec)


def data_url(picture: bytes) -> str:
    """A JPEG as an address that holds it (RFC 2397)."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def _of_images(uris: Sequence[str], rows: Mapping[str, Sequence[Row]], spec: EnrichmentSpec) -> dict[str, bytes]:
    wanted = [(uri, rows[uri][0]["object_version"]) for uri in uris]
    contents = open_store(spec.store).read_many(wanted, _MOST_BYTES) if wanted else []
    made = {}
    for uri, content in zip(uris, contents, strict=True):
        decoded = decode(content, _LIMITS, side=_SIDE) if isinstance(content, bytes) else None
        if isinstance(decoded, DecodedImage):
            boxes = [(thing["label"], thing) for row in rows[uri] for thing in row["regions"] or ()]
            made[uri] = _drawn(decoded.pixels, (decoded.width, decoded.height), boxes)
    return made


def _of_videos(uris: Sequence[str], rows: Mapping[str, Sequence[Row]], spec: EnrichmentSpec) -> dict[str, bytes]:
    wanted = [(uri, rows[uri][0]["object_version"]) for uri in uris]
    made = {}
    with tempfile.TemporaryDirectory(prefix="sightflow-examples-") as folder:
        files = open_store(spec.store).download_many(wanted, Path(folder), _MOST_BYTES) if wanted else []
        for uri, file in zip(uris, files, strict=True):
            if not isinstance(file, MediaFile):
                continue
            tracks = [track for row in rows[uri] for track in row["tracks"] or ()]
            points = [(track["label"], point) for track in tracks for point in track["points"]]
            try:
                index = index_video(file.path, _LIMITS)
                boxes_in = Counter(point["frame_index"] for _, point in points)
                shown = max(boxes_in, key=lambda frame: boxes_in[frame], default=index.frame_count // 2)
                pixels = next(image for _, image in read_frames(file.path, index, [shown], longest_side=_SIDE))
            except (VideoError, StopIteration):
                continue
            size = rows[uri][0]["width"], rows[uri][0]["height"]
            made[uri] = _drawn(pixels, size, [each for each in points if each[1]["frame_index"] == shown])
    return made


def _drawn(pixels: Any, original: tuple[int, int], boxes: Sequence[tuple[str, Row]]) -> bytes:
    """A picture in small, with boxes given in pixels of the original."""
    picture = pixels.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    across, down = picture.width / original[0], picture.height / original[1]
    colours = dict(zip(dict.fromkeys(label for label, _ in boxes), cycle(_COLOURS), strict=False))
    draw = ImageDraw.Draw(picture)
    for label, box in boxes:
        edges = (box["x_min"] * across, box["y_min"] * down, box["x_max"] * across, box["y_max"] * down)
        draw.rectangle(edges, outline=colours[label], width=2)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=75)
    return written.getvalue()
