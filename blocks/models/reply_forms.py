"""What a reply may look like: declared with the prompt, enforced by the engine where it can, held to by the reader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FreeText:
    """A reply may be any text."""


@dataclass(frozen=True)
class Choices:
    """A reply is one of these texts."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class JsonSchema:
    """A reply is JSON of this schema (https://json-schema.org), within what the engine enforces."""

    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Regex:
    """A reply matches this regular expression from its first character to its last.

    Within what regular languages are: no look-around, no references, no anchors.
    """

    pattern: str


@dataclass(frozen=True)
class Grammar:
    """A reply is of this context-free grammar, in which some of the tokens are single tokens of the vocabulary.

    `rules`: in llguidance's dialect of Lark (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md), from
    the rule `start`. `tokens`: names of rules that stand for one token of the tokenizer, each with a regular expression
    that its spelling matches as a whole. Only an engine that knows the tokenizer can enforce it.
    """

    rules: str
    tokens: tuple[tuple[str, str], ...] = ()


ReplyForm = FreeText | Choices | JsonSchema | Regex | Grammar


def one_of(choices: Sequence[str]) -> ReplyForm:
    """The form of a reply that must be one of these; without any, free text."""
    return Choices(tuple(choices)) if choices else FreeText()


def described(form: ReplyForm) -> str:
    """A form as text, the same for the same form: part of a fingerprint."""
    return f"{type(form).__name__} {json.dumps(asdict(form), sort_keys=True, ensure_ascii=False)}"


def enforcement(
    forms: Sequence[ReplyForm], enforced: tuple[type[Any], ...], of_old_recipes: tuple[type[Any], ...], off: bool
) -> dict[str, Any]:
    """What a recipe tells of how replies are held to their forms, where that can change one.

    Nothing for free text, nor for what an engine has enforced for as long as there are recipes. `off`: nothing is
    enforced; then the recipe of every later form is that of the time when it was not.
    """
    if off:
        return {"enforce_reply_form": False} if any(isinstance(form, of_old_recipes) for form in forms) else {}
    later = [each for each in forms if isinstance(each, enforced) and not isinstance(each, of_old_recipes)]
    return {"reply_forms": [described(each) for each in later]} if later else {}
