"""How the instruction-following systems are asked, in words; a system with a form of its own overrides."""

from __future__ import annotations

import json

from sightflow.blocks.models.contract import Prompt
from sightflow.blocks.models.reply_forms import JsonSchema, ReplyForm, one_of
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment

_CAPTION = {
    "brief": "Describe this {media} in one sentence.",
    "detailed": "Describe this {media} in detail: the objects, their colours, and where they are.",
    "paragraph": "Describe this {media} in one paragraph: the setting, every object, and what happens.",
}
_LANGUAGES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "ko": "Korean",
    "pt": "Portuguese",
    "ru": "Russian",
    "zh": "Chinese",
}


def in_language(enrichment: Enrichment) -> str:
    """The sentence that asks for the enrichment's language, or nothing."""
    if not enrichment.language:
        return ""
    name = _LANGUAGES.get(enrichment.language, f"the language with ISO 639 code {enrichment.language!r}")
    return f" Answer in {name}."


def text_instruction(enrichment: Enrichment, media_kind: MediaKind) -> str:
    """The words for a capability that gives text."""
    match enrichment.capability:
        case Capability.IMAGE_CAPTIONING | Capability.VIDEO_CAPTIONING:
            instruction = enrichment.prompt or _CAPTION[enrichment.detail].format(media=media_kind)
        case Capability.VISUAL_QUESTION_ANSWERING if enrichment.choices:
            listed = "; ".join(enrichment.choices)
            instruction = f"{enrichment.question}\nAnswer with exactly one of these and nothing else: {listed}."
        case Capability.VISUAL_QUESTION_ANSWERING:
            instruction = f"{enrichment.question}\nAnswer briefly."
        case _:
            instruction = f"{enrichment.question}\nReason step by step, then state the answer."
    return instruction + in_language(enrichment)


def extraction_instruction(enrichment: Enrichment, media_kind: MediaKind) -> str:
    """The words for fields by a schema, answered as JSON."""
    asked = enrichment.prompt or f"Read these fields off this {media_kind}."
    schema = json.dumps(enrichment.extraction_schema, ensure_ascii=False)
    return (
        f"{asked}{in_language(enrichment)}\n"
        f"Answer with one JSON object of this JSON Schema and nothing else: {schema}\n"
        f"Leave out, or give as null, what the {media_kind} does not show."
    )


def extraction_form(enrichment: Enrichment) -> ReplyForm:
    """The form of a reply that holds fields by a schema."""
    return JsonSchema(enrichment.extraction_schema or {})


def region_instruction(enrichment: Enrichment, box_form: str, polygon_form: str | None = None) -> str:
    """The words for detection, grounding and segmentation, answered as JSON.

    `box_form` says what the four numbers are, e.g. `"box": [x_min, y_min, x_max, y_max] in 0-1000`;
    `polygon_form` likewise for an outline, used when segmentation is asked.
    """
    if enrichment.capability is Capability.VISUAL_GROUNDING:
        subject = "each place that these phrases describe: " + "; ".join(enrichment.phrases)
    elif enrichment.labels:
        subject = "every object of these kinds, and no other: " + "; ".join(enrichment.labels)
    else:
        subject = "every object"
    form = box_form
    if enrichment.capability is Capability.SEGMENTATION and polygon_form:
        form = f"{box_form}, {polygon_form}"
    named = "the phrase" if enrichment.capability is Capability.VISUAL_GROUNDING else "the kind of object"
    return (
        f"Locate {subject}.\n"
        f'Answer with a JSON array and nothing else, one entry a place: {{"label": {named}, {form}}}. '
        "If there is none, answer []."
    )


def instruction_prompts(
    enrichment: Enrichment,
    media_kind: MediaKind,
    max_new_tokens: int,
    box_form: str,
    polygon_form: str | None = None,
    regions: ReplyForm | None = None,
) -> tuple[Prompt, ...]:
    """One prompt for the enrichment, in words; `regions`: the form of a reply that holds places."""
    if enrichment.capability is Capability.STRUCTURED_EXTRACTION:
        text = extraction_instruction(enrichment, media_kind)
        return (Prompt(text, reply_form=extraction_form(enrichment), max_new_tokens=max_new_tokens),)
    if enrichment.capability.gives_text:
        text = text_instruction(enrichment, media_kind)
    else:
        text = region_instruction(enrichment, box_form, polygon_form)
    form = one_of(enrichment.choices) if enrichment.capability.gives_text or regions is None else regions
    return (Prompt(text, reply_form=form, max_new_tokens=max_new_tokens),)
