"""Asking about the sampled frames of a video, and reading what is said of them: regions and tracks by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sightflow.blocks.models.instructions import instruction_prompts, region_instruction
from sightflow.blocks.models.replies.json_regions import read_entries
from sightflow.blocks.models.vision_model import Prompt, ReplyError
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, Region, RegionsResult, Track, TrackPoint, TracksResult
from sightflow.schemas.media import DecodedVideo

_FRAME_FORM = '"frame": the number of the frame'
_TRACK_FORM = '"track": a whole number, the same for the same object in every frame'


def frame_titles(video: DecodedVideo) -> list[str]:
    """The words that stand before each frame: its number, from 1, and its time."""
    return [f"Frame {k}, at {seconds:.2f} s:" for k, seconds in enumerate(video.seconds, start=1)]


def media_prompts(
    enrichment: Enrichment, media_kind: MediaKind, max_new_tokens: int, box_form: str, polygon_form: str
) -> tuple[Prompt, ...]:
    """One prompt in words; of a video, regions and tracks are asked for by the numbers of its frames."""
    if media_kind is MediaKind.IMAGE or enrichment.capability.gives_text:
        return instruction_prompts(enrichment, media_kind, max_new_tokens, box_form, polygon_form)
    form = f"{_FRAME_FORM}, {box_form}"
    if enrichment.capability is Capability.OBJECT_TRACKING:
        form = f"{_TRACK_FORM}, {form}"
    asked = region_instruction(enrichment, form, polygon_form)
    words = f"These are frames of one video, in order. {asked}\nGive an entry for every frame in which a place is seen."
    return (Prompt(words, max_new_tokens=max_new_tokens),)


def attach_frames(
    text: str, regions: RegionsResult, enrichment: Enrichment, video: DecodedVideo
) -> RegionsResult | TracksResult:
    """The regions that were read from a reply about frames, with their frames, or as tracks if these were asked."""
    if enrichment.capability is Capability.OBJECT_TRACKING:
        return tracks_by_frame(text, regions, video)
    return regions_by_frame(text, regions, video)


def regions_by_frame(text: str, regions: RegionsResult, video: DecodedVideo) -> RegionsResult:
    """The regions of a reply, each with the frame that its entry names. Raises ReplyError if one names none."""
    places = [_whole(entry, "frame", 1, len(video.frames)) - 1 for entry in read_entries(text)]
    return RegionsResult(tuple(_placed(r, k, video) for r, k in zip(regions.regions, places, strict=True)))


def tracks_by_frame(text: str, regions: RegionsResult, video: DecodedVideo) -> TracksResult:
    """The tracks of a reply whose entries name frame and track; tracks are numbered from 1 as they appear.

    Raises ReplyError if an entry names no frame or no track, or a track is twice in a frame or changes its label.
    """
    placed = regions_by_frame(text, regions, video).regions
    numbers = [_whole(entry, "track", 0, 10**9) for entry in read_entries(text)]
    members: dict[int, list[Region]] = {}
    for number, region in zip(numbers, placed, strict=True):
        members.setdefault(number, []).append(region)
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


def _placed(region: Region, place: int, video: DecodedVideo) -> Region:
    return replace(region, frame_index=video.indices[place], seconds=video.seconds[place])


def _whole(entry: Any, key: str, least: int, most: int) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ReplyError(f"an entry's {key} is a whole number from {least} to {most}, not {str(value)[:40]}")
    return value
