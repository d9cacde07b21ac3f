"""Asking about the sampled frames of a video that are shown together."""

from __future__ import annotations

from typing import Any

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.instructions import instruction_prompts, region_instruction
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.media import DecodedVideo

_FRAME_FORM = '"frame": the number of the frame'
_TRACK_FORM = '"track": a whole number, the same for the same object in every frame'


def frame_titles(video: DecodedVideo) -> list[str]:
    """The words that stand before each frame: its number, from 1, and its time."""
    return [f"Frame {k}, at {seconds:.2f} s:" for k, seconds in enumerate(video.seconds, start=1)]


def frames_at_times(video: DecodedVideo) -> dict[str, Any]:
    """A video's frames with the times at which they were taken, as transformers' metadata.

    Frames are numbered in milliseconds, "at 1000 frames a second", which is exact also where the frame
    rate varies; the length is such that frames over length is the mean rate of sampling.
    """
    indices = [round(second * 1000) for second in video.seconds]
    count = len(indices)
    spacing = (indices[-1] - indices[0]) / (count - 1) if count > 1 else 1000.0 / (video.frame_rate or 24.0)
    return {"frames_indices": indices, "fps": 1000.0, "total_num_frames": max(round(count * spacing), 1)}


def media_prompts(
    enrichment: Enrichment, media_kind: MediaKind, max_new_tokens: int, box_form: str, polygon_form: str
) -> tuple[Prompt, ...]:
    """One prompt in words; of a video, regions and tracks are asked for by the numbers of its frames."""
    if media_kind is MediaKind.IMAGE or enrichment.capability.gives_text:
        return instruction_prompts(enrichment, media_kind, max_new_tokens, box_form, polygon_form)
    form = f"{_FRAME_FORM}, {box_form}"
    if enrichment.capability is Capability.OBJECT_TRACKING:
        form = f"{_TRACK_FORM}, {form}"
    instruction = region_instruction(enrichment, form, polygon_form)
    about_frames = "Give an entry for every frame in which a place is seen."
    text = f"These are frames of one video, in order. {instruction}\n{about_frames}"
    return (Prompt(text, max_new_tokens=max_new_tokens),)
