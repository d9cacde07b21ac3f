"""One enrichment: a capability with fixed parameters, and the typed results it can have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.extraction.json_schema import UnsupportedSchema, normalized
from sightflow.schemas.geometry import Box

OUTPUT_SCHEMA_VERSION = 1
"""Part of every fingerprint: raising it makes every row stale."""

OBJECT_COLUMNS = ("media_kind", "width", "height", "duration", "object_version")
"""Columns about the object itself in the view `catalog`, beside `uri` and `inferred_at`."""
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
RESERVED_NAMES = frozenset({"uri", "inferred_at", *OBJECT_COLUMNS})
"""What no enrichment may be called: its column would hide behind theirs."""

Detail = Literal["brief", "detailed", "paragraph"]
Delivery = Literal["direct", "batch"]
"""How requests reach a hosted model: one by one, or by the vendor's batch API."""


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class FrameSampling(BaseModel):
    """Which frames of a video are looked at: `uniform` n frames, `fps` frames a second, or `keyframes`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    frames: int | None = Field(default=None, ge=1, le=4096, description="this many, evenly spread")
    fps: float | None = Field(default=None, gt=0, le=120, description="this many a second")
    keyframes: bool = Field(default=False, description="only the frames that are stored whole")
    max_frames: int = Field(default=64, ge=1, le=512, description="the most frames shown at once, of one window")
    start: float = Field(default=0.0, ge=0, description="seconds from the start")
    end: float | None = Field(default=None, gt=0, description="seconds from the start")

    @classmethod
    def usual(cls, capability: Capability) -> Self:
        """What is looked at if nothing is said: of text 8 frames, of regions one a second, of tracks four a second."""
        if capability.gives_text:
            return cls(frames=8)
        return cls(fps=4 if capability is Capability.OBJECT_TRACKING else 1)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        chosen = [n for n, on in (("frames", self.frames), ("fps", self.fps), ("keyframes", self.keyframes)) if on]
        if len(chosen) > 1:
            raise ValueError(f"choose one of frames, fps, keyframes; this has {' and '.join(chosen)}")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end ({self.end}) must be after start ({self.start})")
        return self


_PARAMETERS: dict[Capability, frozenset[str]] = {
    Capability.IMAGE_CAPTIONING: frozenset({"detail", "prompt", "language"}),
    Capability.VISUAL_QUESTION_ANSWERING: frozenset({"question", "choices", "language", "sampling"}),
    Capability.VISUAL_REASONING: frozenset({"question", "language", "sampling"}),
    Capability.VISUAL_GROUNDING: frozenset({"phrases"}),
    Capability.OBJECT_DETECTION: frozenset({"labels", "sampling"}),
    Capability.SEGMENTATION: frozenset({"labels", "sampling"}),
    Capability.OBJECT_TRACKING: frozenset({"labels", "sampling", "masks"}),
    Capability.VIDEO_CAPTIONING: frozenset({"detail", "prompt", "language", "sampling"}),
    Capability.STRUCTURED_EXTRACTION: frozenset({"schema", "prompt", "language"}),
}
_ALL_PARAMETERS = frozenset[str]().union(*_PARAMETERS.values())
_REQUIRED: dict[Capability, tuple[str, ...]] = {
    Capability.VISUAL_QUESTION_ANSWERING: ("question",),
    Capability.VISUAL_REASONING: ("question",),
    Capability.VISUAL_GROUNDING: ("phrases",),
    Capability.SEGMENTATION: ("labels",),
    Capability.STRUCTURED_EXTRACTION: ("schema",),
}
_NO_PARAMETERS = {"capability", "name", "model", "media", "delivery"}
"""What an enrichment says besides its parameters; who is asked is told by the recipe, and how changes no result."""
_FIELDS = {"schema": "extraction_schema"}
"""The names here of parameters that pydantic's models have a method of."""


class Enrichment(BaseModel):
    """One capability asked of every object, with fixed parameters; its result is one catalog row."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True, serialize_by_alias=True
    )

    capability: Capability
    name: str = Field(default="", pattern=rf"{NAME_PATTERN}|^$")
    detail: Detail = "brief"
    prompt: str | None = Field(default=None, min_length=1, max_length=10_000)
    question: str | None = Field(default=None, min_length=1, max_length=10_000)
    choices: Words = ()
    labels: Words = ()
    phrases: Words = ()
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$", description="ISO 639 code")
    extraction_schema: dict[str, Any] | None = Field(
        default=None,
        alias="schema",
        description="the fields, as JSON Schema; in a spec also a file or a class",
    )
    sampling: FrameSampling | None = None
    masks: bool = Field(default=False, description="a mask beside each box of a track; needs labels")
    media: MediaKind | None = Field(default=None, description="ask only of this kind of media")
    model: str | None = Field(default=None, description="the system to use; unset, the router chooses")
    delivery: Delivery | None = Field(default=None, description="how hosted models are asked; unset, policy.delivery")

    @field_validator("extraction_schema", mode="before")
    @classmethod
    def _canonical_schema(cls, given: Any) -> Any:
        """A JSON Schema, or in Python a pydantic model. The name of a file or of code is for `read_spec` alone: a spec
        that comes out of a catalog or a deployment runs nothing.
        """
        if isinstance(given, type) and issubclass(given, BaseModel):
            given = given.model_json_schema()
        if isinstance(given, str):
            raise UnsupportedSchema("a file's or a class's name is taken in a spec file alone; write the schema itself")
        return None if given is None else normalized(given)

    @field_validator("choices", "labels", "phrases")
    @classmethod
    def _clean_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        stripped = tuple(word.strip() for word in words)
        if any(not word for word in stripped):
            raise ValueError("an entry is empty; remove it")
        if len({word.casefold() for word in stripped}) != len(stripped):
            raise ValueError("an entry stands twice; remove one")
        return stripped

    @model_validator(mode="after")
    def _fits_the_capability(self) -> Self:
        allowed = _PARAMETERS[self.capability]
        given = {
            key
            for key in _ALL_PARAMETERS
            # What stands at its default counts as not given: a spec that was stored and read again is the same spec.
            if getattr(self, _FIELDS.get(key, key)) != type(self).model_fields[_FIELDS.get(key, key)].default
        }
        if extra := sorted(given - allowed):
            raise ValueError(f"{self.capability} takes no {', '.join(extra)}; it takes {', '.join(sorted(allowed))}")
        for key in _REQUIRED.get(self.capability, ()):
            if not getattr(self, _FIELDS.get(key, key)):
                raise ValueError(f"{self.capability} needs {key}")
        if self.masks and not self.labels:
            raise ValueError(f"{self.capability} with masks needs labels")
        if self.name in RESERVED_NAMES:
            raise ValueError(f"an enrichment cannot be called {self.name}, as a column of the view `catalog` is")
        if len(self.choices) == 1:
            raise ValueError("choices needs at least two entries")
        if self.media is not None and self.media not in self.capability.media_kinds:
            raise ValueError(f"{self.capability} cannot be asked of a media object of kind {self.media}")
        if not self.name:
            object.__setattr__(self, "name", str(self.capability))
        return self

    def __hash__(self) -> int:
        return hash((self.capability, self.name))  # not of the schema, which is a dictionary

    @property
    def media_kinds(self) -> frozenset[MediaKind]:
        """The kinds of media it is asked of."""
        return self.capability.media_kinds if self.media is None else frozenset({self.media})

    @property
    def parameters(self) -> dict[str, Any]:
        """What was asked, without what was left at its default: JSON-ready, part of the fingerprint."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=_NO_PARAMETERS)


@dataclass(frozen=True)
class Region:
    """A labelled box in pixels of the upright original, with a mask where the capability gives one.

    `mask` is the `counts` of a COCO RLE over the original's height and width; `score` is 0..1 or None
    where the model gives none.
    """

    label: str
    box: Box
    score: float | None = None
    mask: str | None = None
    frame_index: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Segment:
    """What happens between two times of a video, in seconds from its start."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class TrackPoint:
    """Where a tracked object is in one sampled frame; `gap` marks a place that was interpolated.

    `mask`, where masks were asked for: the `counts` of a COCO RLE over the original's height and width. An interpolated
    place has none.
    """

    frame_index: int
    seconds: float
    box: Box
    score: float | None = None
    gap: bool = False
    mask: str | None = None


@dataclass(frozen=True)
class Track:
    """One object through a video."""

    track_id: int
    label: str
    points: tuple[TrackPoint, ...]


@dataclass(frozen=True)
class TextResult:
    """A caption, an answer or a chain of reasoning; `segments` are a video's timed captions."""

    text: str
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class RegionsResult:
    """Detected, grounded or segmented regions; none at all is a valid answer."""

    regions: tuple[Region, ...]


@dataclass(frozen=True)
class TracksResult:
    """Tracked objects; none at all is a valid answer."""

    tracks: tuple[Track, ...] = field(default=())


@dataclass(frozen=True)
class FieldsResult:
    """Extracted fields: `json`, an object of the enrichment's schema as JSON text."""

    json: str


Result = TextResult | RegionsResult | TracksResult | FieldsResult
