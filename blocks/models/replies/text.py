"""Reading a reply that is text: a caption, an answer, or one of the choices."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.replies.answer import answer_of, special_token_in, without_fence
from sightflow.blocks.models.replies.json_regions import each_key_once
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment, TextResult

_AROUND = " \t\r\n.,;:!?\"'`*_~()[]{}<>«»“”„‘’‚…。，、；：！？「」『』（）【】《》．"
_LEAD = re.compile(
    r"^(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|choice|option|答案|回答|选择|选项)(?:\s+is\b|是|\s*[:：=])\s*",
    re.IGNORECASE,
)
_LIKE_JSON = re.compile(r"^\s*(?:\{|\[\s*[\[{\"'\d\]])|\{\s*[\"'][^\"'\n]{1,40}[\"']\s{0,3}:")
"""A reply that begins as an object or an array does, whole, broken off or of another language, or holds an object."""
_FENCE = "```"
_LETTER = re.compile(r"^[\s*(（\[]*([A-Za-z]|\d{1,2})[)）\].:：、]+\s*(?=\S)")


def plain_text(text: str, choices: Sequence[str] = (), prose: bool = False) -> TextResult:
    """A reply as text; with choices, the one that it names and nothing else.

    `prose`: what was asked for is a description, so that JSON and code are none. Raises ReplyError if the reply is
    empty, holds tokens of a tokenizer, or names none of the choices.
    """
    answer = without_fence(answer_of(text))
    if not answer:
        raise ReplyError("the reply is empty")
    if choices:
        return TextResult(_choice(answer, choices))
    if token := special_token_in(answer):
        raise ReplyError(f"the reply holds {token!r}, which is no text: {answer[:80]!r}")
    if prose:
        answer = _unquoted(answer)
        if _LIKE_JSON.search(answer):
            raise ReplyError(f"a description was asked for, and the reply holds JSON: {answer[:80]!r}")
        if _FENCE in answer:
            raise ReplyError(f"a description was asked for, and the reply holds code: {answer[:80]!r}")
        if not any(map(str.isalnum, answer)):
            raise ReplyError(f"the reply says nothing: {answer[:80]!r}")
    return TextResult(answer)


def read_text(text: str, enrichment: Enrichment, prompt: Prompt) -> TextResult:
    """The text that an enrichment asked for. Raises ReplyError."""
    prose = (
        enrichment.capability in (Capability.IMAGE_CAPTIONING, Capability.VIDEO_CAPTIONING) and not enrichment.prompt
    )
    return plain_text(text, prompt.choices, prose)


def _choice(answer: str, choices: Sequence[str]) -> str:
    """The one choice that an answer names, without regard to case, emphasis, punctuation and what introduces it."""
    answer = _unwrapped(answer)
    if answer in choices:
        return answer
    by_form: dict[str, list[int]] = {}
    for index, choice in enumerate(choices):
        by_form.setdefault(_form(choice), []).append(index)
    bare = _LEAD.sub("", unicodedata.normalize("NFKC", answer).strip(_AROUND), count=1)
    for candidate in (answer, bare):
        if len(named := by_form.get(_form(candidate), [])) == 1:
            return choices[named[0]]
    for candidate in (bare, unicodedata.normalize("NFKC", answer)):
        if lettered := _LETTER.match(candidate):
            named = by_form.get(_form(candidate[lettered.end() :]), [])
            if len(named) == 1 and _number(lettered.group(1)) == named[0]:  # "(B) indoors" is not the first choice
                return choices[named[0]]
    raise ReplyError(f"the answer {answer[:80]!r} is none of the choices {list(choices)}")


def _form(text: str) -> str:
    """What two spellings of one choice have in common."""
    return unicodedata.normalize("NFKC", text).strip(_AROUND).casefold()


def _number(label: str) -> int:
    """The index that a letter or a number before a choice stands for."""
    return int(label) - 1 if label.isdigit() else ord(label.upper()) - ord("A")


def _unwrapped(text: str) -> str:
    """The choice in a structured reply `{"answer": ...}` or `"..."`, or the text as it stands."""
    try:
        value = json.loads(text, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict):
        value = value.get("answer")
    return value if isinstance(value, str) else text


def _unquoted(text: str) -> str:
    """What a description says that was written as one JSON string."""
    try:
        value = json.loads(text) if text.startswith('"') else text
    except ValueError:
        return text
    return str(value).strip()
