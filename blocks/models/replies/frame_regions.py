"""Reading what was said of a video's frames: regions and tracks, each with its frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sightflow.blocks.models.contract import ReplyError
from sightflow.blocks.models.replies.json_regions import read_entries
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, Track, TrackPoint, TracksResult
from sightflow.schemas.media import DecodedVideo


def attach_frames(
    text: str, regions: RegionsResult, enrichment: Enrichment, video: DecodedVideo
) -> RegionsResult | TracksResult:
    """The regions that were read from a reply about frames, with their frames, or as tracks if these were asked.

    Tracks are numbered from 1 as they appear. Raises ReplyError if an entry names no frame or no track, or a track is
    twice in a frame or changes its label.
    """
    entries = read_entries(text)
    positions = [_whole(entry, "frame", 1, len(video.frames)) - 1 for entry in entries]
    placed = tuple(_at_frame(r, k, video) for r, k in zip(regions.regions, positions, strict=True))
    if enrichment.capability is not Capability.OBJECT_TRACKING:
        return RegionsResult(placed)
    members: dict[int, list[Region]] = {}
    for entry, region in zip(entries, placed, strict=True):
        members.setdefault(_whole(entry, "track", 0, 10**9), []).append(region)
    return TracksResult(tuple(_track(k, found) for k, found in enumerate(members.values(), start=1)))


def _track(number: int, regions: Sequence[Region]) -> Track:
    points = [
        TrackPoint(region.frame_index, region.seconds, region.box, region.score)
        for region in regions
        if region.frame_index is not None and region.seconds is not None
    ]
    if len({point.frame_index for point in points}) != len(points):
        raise ReplyError("a track is twice in one frame")
    if len({region.label for region in regions}) != 1:
        raise ReplyError(f"a track changes its label: {sorted({region.label for region in regions})}"[:200])
    return Track(number, regions[0].label, tuple(sorted(points, key=lambda point: point.frame_index)))


def _at_frame(region: Region, position: int, video: DecodedVideo) -> Region:
    return replace(region, frame_index=video.indices[position], seconds=video.seconds[position])


def _whole(entry: Any, key: str, least: int, most: int) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ReplyError(f"an entry's {key} is a whole number from {least} to {most}, not {str(value)[:40]}")
    return value
