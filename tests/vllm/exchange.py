"""Requests and replies as files, for a process of another environment, whose libraries are of other versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import DecodedImage, DecodedVideo, Media
from sightflow.schemas.vision import VisionReply, VisionRequest


@dataclass(frozen=True)
class Said:
    """What a test compares of a reply: what became of it, and how many tokens went in and came out."""

    uri: str
    enrichment: str
    outcome: str
    tokens: tuple[int, int]

    @classmethod
    def of(cls, reply: VisionReply) -> Said:
        outcome = f"{reply.failure.cause}: {reply.failure.message}" if reply.failure else repr(reply.outcome)
        return cls(reply.uri, reply.enrichment, outcome, (reply.usage.input_tokens, reply.usage.output_tokens))


def write_requests(requests: Sequence[VisionRequest], folder: Path) -> None:
    """Make a folder of requests: `requests.json` and the pictures. What is asked of one medium stays so."""
    folder.mkdir(parents=True)
    written: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for request in requests:
        media = request.media
        if id(media) not in names:
            names[id(media)] = str(len(names))
            for k, image in enumerate((media.pixels,) if isinstance(media, DecodedImage) else media.frames):
                image.save(folder / f"{names[id(media)]}-{k:03d}.png")
        entry = {"uri": request.uri, "media": names[id(media)], "enrichment": request.enrichment.model_dump_json()}
        if isinstance(media, DecodedVideo):
            entry |= {"times": [media.indices, media.seconds], "facts": [media.duration, media.frame_rate]}
        written.append(entry | {"size": [media.width, media.height], "sha256": media.sha256})
    (folder / "requests.json").write_text(json.dumps(written))


def read_requests(folder: Path) -> list[VisionRequest]:
    requests: list[VisionRequest] = []
    media: dict[str, Media] = {}
    for entry in json.loads((folder / "requests.json").read_text()):
        name = entry["media"]
        if name not in media:
            media[name] = _media(entry, [Image.open(file).convert("RGB") for file in sorted(folder.glob(f"{name}-*"))])
        requests.append(VisionRequest(entry["uri"], Enrichment.model_validate_json(entry["enrichment"]), media[name]))
    return requests


def _media(entry: dict[str, Any], images: list[Image.Image]) -> Media:
    if "times" not in entry:
        return DecodedImage(images[0], *entry["size"], entry["sha256"])
    indices, seconds = map(tuple, entry["times"])
    return DecodedVideo(tuple(images), indices, seconds, *entry["size"], *entry["facts"], entry["sha256"])


def write_replies(replies: Sequence[VisionReply], file: Path) -> None:
    file.write_text(json.dumps([asdict(Said.of(reply)) for reply in replies]))


def read_replies(file: Path) -> list[Said]:
    return [Said(**entry | {"tokens": tuple(entry["tokens"])}) for entry in json.loads(file.read_text())]
