"""Several questions about one object as one request: the media are sent, and paid, once.

The reply is one JSON object with a key for each question, named as its enrichment; each value is then read as the reply
to its own question would be.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sightflow.blocks.models.contract import (
    BilledFailure,
    Generated,
    GenerationRequest,
    Output,
    Prompt,
    ReplyError,
)
from sightflow.blocks.models.replies.answer import answer_of, without_fence
from sightflow.blocks.models.replies.json_regions import each_key_once
from sightflow.blocks.models.replies.regions_schema import strict_object
from sightflow.blocks.models.reply_forms import Choices, FreeText, JsonSchema
from sightflow.schemas.failure import Cause, Failure
from sightflow.schemas.media import DecodedVideo
from sightflow.schemas.vision import Usage, VisionRequest


@dataclass(frozen=True)
class CombinedPrompt(Prompt):
    """Several questions about one object, to be answered in one JSON object; `parts`: each as it would be put alone."""

    parts: tuple[GenerationRequest, ...] = ()

    def texts(self, reply: str) -> list[str]:
        """What a reply says to each part, in order, as a reply to that part alone. Raises ReplyError."""
        answered = _object(reply)
        if missing := [name for name in map(_name, self.parts) if name not in answered]:
            raise ReplyError(f"the reply has no {', '.join(map(repr, missing))}, of what was asked together")
        return [_text(answered[_name(part)]) for part in self.parts]


def together(batch: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """The requests of a batch with those about one object made one, where its first stood.

    Left alone are: what an object is asked by itself; what an enrichment needs several prompts for; the repair of a
    reply; and a question whose answer has a form that no JSON Schema says.
    """
    prompts = Counter(id(each.request) for each in batch)
    joined: dict[Any, list[GenerationRequest]] = {}
    names: set[tuple[Any, str]] = set()
    for place, each in enumerate(batch):
        seen = _seen(each.request)
        key = (seen, _name(each))
        joins = prompts[id(each.request)] == 1 and each.unreadable is None and _schema(each.prompt) is not None
        joined.setdefault(seen if joins and key not in names else ("alone", place), []).append(each)
        names.add(key)
    return [parts[0] if len(parts) == 1 else _as_one(parts) for parts in joined.values()]


def apart(
    batch: Sequence[GenerationRequest], joined: Sequence[GenerationRequest], outputs: Sequence[Output | None]
) -> list[Output | None]:
    """The outputs of `together(batch)` as those of the batch: what was spent on one request is divided by its parts."""
    made: dict[int, Output | None] = {}
    for each, output in zip(joined, outputs, strict=True):
        if isinstance(each.prompt, CombinedPrompt):
            parts = each.prompt.parts
            made |= {id(part): own for part, own in zip(parts, _divided(each.prompt, output), strict=True)}
        else:
            made[id(each)] = output
    return [made[id(each)] for each in batch]


def _seen(request: VisionRequest) -> tuple[Any, ...]:
    """What the model is shown: of a video these frames, which some vendors are sent otherwise where text is asked."""
    media = request.media
    if isinstance(media, DecodedVideo):
        return request.uri, media.sha256, media.indices, request.enrichment.capability.gives_text
    return (id(media),)


def can_join(prompts: Sequence[Prompt]) -> bool:
    """Whether an enrichment that is asked by these prompts can be asked together with others."""
    return len(prompts) == 1 and _schema(prompts[0]) is not None


def _as_one(parts: Sequence[GenerationRequest]) -> GenerationRequest:
    first = parts[0].request
    names = [_name(part) for part in parts]
    asked = "\n\n".join(f'"{name}": {part.prompt.text}' for name, part in zip(names, parts, strict=True))
    text = (
        f"Answer each of these about the {first.media.kind}, as if it were asked alone. Answer with one JSON object "
        f"and nothing else, which has these keys, each with the answer to what follows it.\n\n{asked}"
    )
    form = JsonSchema(strict_object({_name(part): _schema(part.prompt) for part in parts}))
    longest = max(part.prompt.max_new_tokens for part in parts)
    prompt = CombinedPrompt(text, reply_form=form, max_new_tokens=longest, parts=tuple(parts))
    return GenerationRequest(first, prompt)


def _name(part: GenerationRequest) -> str:
    return part.request.enrichment.name


def _schema(prompt: Prompt) -> dict[str, Any] | None:
    """What the answer to a prompt is within an object; None where that cannot be said."""
    match prompt.reply_form:
        case FreeText():
            return {"type": "string"}
        case Choices(options):
            return {"type": "string", "enum": list(options)}
        case JsonSchema(schema):
            return dict(schema)
        case _:
            return None


def _object(reply: str) -> dict[str, Any]:
    try:
        value = json.loads(without_fence(answer_of(reply)), object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ReplyError):
            raise
        raise ReplyError(f"the reply to what was asked together is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ReplyError(f"the reply to what was asked together is no JSON object: {reply.strip()[:80]!r}")
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _divided(prompt: CombinedPrompt, output: Output | None) -> list[Output | None]:
    count = len(prompt.parts)
    if isinstance(output, BilledFailure):
        return [replace(output, usage=share) for share in shares(output.usage, count)]
    if not isinstance(output, Generated):
        return [output] * count
    heard = output.transcript or (output.text,)
    parts = [replace(output, usage=share, transcript=heard) for share in shares(output.usage, count)]
    if output.truncated:
        return list(parts)
    try:
        answered = _object(output.text)
    except ReplyError as error:
        return [_unreadable(str(error), share) for share in parts]
    return [
        replace(share, text=_text(answered[name]))
        if (name := _name(part)) in answered
        else _unreadable(f"the reply to what was asked together has no {name!r}", share)
        for part, share in zip(prompt.parts, parts, strict=True)
    ]


def _unreadable(why: str, share: Generated) -> Failure:
    spent: dict[str, Any] = {"usage": share.usage, "served_id": share.served_id, "transcript": share.transcript}
    return BilledFailure(Cause.MALFORMED, why, attempts=share.attempts, **spent)


def shares(usage: Usage, count: int) -> list[Usage]:
    """What was spent in so many equal parts, whole tokens each; the first have what is left over."""

    def share(tokens: int, place: int) -> int:
        return tokens // count + (place < tokens % count)

    return [
        Usage(
            share(usage.input_tokens, place),
            share(usage.output_tokens, place),
            usage.cost_usd / count,
            share(usage.cached_input_tokens, place),
            share(usage.cache_write_tokens, place),
            share(usage.audio_input_tokens, place),
        )
        for place in range(count)
    ]
