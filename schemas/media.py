"""Decoded media: what a model is given. Pixels live in memory within a run and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sightflow.schemas.capability import MediaKind

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """One image, upright (EXIF orientation applied), RGB.

    `width, height` are those of the upright original; `pixels` may be smaller when the image was
    decoded at reduced scale. `sha256` is that of the object's bytes and ties a result to its object.
    """

    pixels: Image.Image
    width: int
    height: int
    sha256: str

    kind = MediaKind.IMAGE


@dataclass(frozen=True)
class MediaFile:
    """A media object's bytes as a file on this machine, for as long as its shard is worked on."""

    path: Path
    sha256: str


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """Sampled frames of one video, upright, RGB, all of one size.

    `seconds[i]` is the presentation time of `frames[i]` from the start of the video, `indices[i]` its
    place among all the frames of the stream. `width, height` are those of the upright original, in pixels; frames may
    be smaller. `duration` is in seconds, `frame_rate` the mean frames a second.
    """

    frames: tuple[Image.Image, ...]
    indices: tuple[int, ...]
    seconds: tuple[float, ...]
    width: int
    height: int
    duration: float
    frame_rate: float
    sha256: str
    source: Path | None = None  # the original file, for the models that take a video as it is

    kind = MediaKind.VIDEO


Media = DecodedImage | DecodedVideo


@dataclass(frozen=True)
class MediaFacts:
    """What a catalog row keeps of the media: sizes in pixels of the upright original, times in seconds."""

    kind: MediaKind
    width: int
    height: int
    sha256: str
    duration: float | None = None
    frame_rate: float | None = None

    @classmethod
    def of(cls, image: DecodedImage) -> MediaFacts:
        """The facts of an image, whose pixels can then be let go."""
        return cls(image.kind, image.width, image.height, image.sha256)
