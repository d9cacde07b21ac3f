"""The answer in a reply: what is left when thinking and the tokens of a chat template are taken off.

Reasoning models write their thinking into the reply, between tags or with the closing tag alone where the template
holds the opening one; servers differ in which special tokens they leave out. None of it is ever published.
"""

from __future__ import annotations

import re

from sightflow.blocks.models.contract import ReplyError

_TAGS = r"(?:\w{1,16}:)?(?:think(?:ing)?|thoughts?|reason|reasoning(?:_content)?|reflection|scratchpad|analysis)"
_OPEN = re.compile(
    rf"<\s{{0,3}}{_TAGS}(?:\s[^<>]{{0,80}})?>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|start_thinking)\|>"
    r"|<\|channel>(?:thought\b)?",  # Gemma 4's
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"<\s{{0,3}}/\s{{0,3}}{_TAGS}\s{{0,3}}>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|end_thinking)\|>"
    r"|<channel\|>",
    re.IGNORECASE,
)
_TURN = (
    r"<\|(?:im_start|im_end|endoftext|end_of_text|begin_of_text|eot_id|eom_id|end|user|assistant|system|eot|"
    r"start_header_id|end_header_id|return|message|channel|bos|eos|pad)\|>"
    r"|</?s>|<(?:pad|sep|cls|unk|mask|bos|eos|eod|end_of_turn|start_of_turn|end_of_utterance|eos_token)>"
    r"|<\|turn>|<turn\|>"  # Gemma 4's
    r"|\[(?:EOS|BOS|PAD|SEP|CLS|/?INST)\]|<｜[^<>｜]{1,40}｜>"
)
_AT_START = re.compile(rf"(?:{_TURN})\s*(?:(?:assistant|model)\b\s*:?)?", re.IGNORECASE)
_AT_END = re.compile(rf"(?:{_TURN})$")
_LONGEST_TOKEN = 64
_SPECIAL = re.compile(
    rf"{_TURN}|<\|[A-Za-z0-9_/ -]{{1,40}}\|>|<0x[0-9A-F]{{2}}>|<unused\d{{1,6}}>|<</?SYS>>"
    r"|<\|[a-z_]{1,20}>|<[a-z_]{1,20}\|>"
    r"|</?[A-Za-z]{1,40}(?:_\w{1,40})+>"  # <start_of_image>, <tool_call>, <s_answer>, <loc_12>: no HTML is so named
    r"|</?(?:poly|image|video|img|box|ref|quad|od|ocr|eot|end|ned|assistant|user|system|model|answer|response|output|caption"
    r"|EOS|BOS|EOT|PAD|UNK|SEP|CLS|MASK|CAPTION|OD|OCR|VQA)>|<function=|<think\s*/>"
    r"|\[(?:IMG|IMG_END|IMG_BREAK|EOT|UNK|MASK|(?:AVAILABLE_)?TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
)
_WRAPPED = re.compile(r"<(answer|response|output|caption|final_answer)>(.*)</\1>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"<\|begin_of_box\|>(.*)<\|end_of_box\|>", re.DOTALL)
_ROLE = re.compile(r"assistant\s{0,3}:", re.IGNORECASE)
_FENCE = "```"
_LANGUAGE = re.compile(r"[A-Za-z0-9_-]{0,20}[ \t]*(?:\n|$)")


def answer_of(text: str) -> str:
    """A reply without its thinking, the tokens of a chat template at its ends and the tags around it, stripped.

    Raises ReplyError if the thinking does not end, or if there is an answer before it and another after it.
    """
    answer = _strip_turn(_without_thinking(text))
    if role := _ROLE.match(answer):
        answer = _strip_turn(answer[role.end() :])
    if wrapped := _WRAPPED.fullmatch(answer):
        return _strip_turn(wrapped[2])
    if boxed := _BOXED.fullmatch(answer):
        return _strip_turn(boxed[1])
    return answer


def marks_thinking(text: str) -> bool:
    """Whether a reply holds a mark at which thinking begins or ends."""
    return bool(_OPEN.search(text) or _CLOSE.search(text))


def special_token_in(text: str) -> str | None:
    """A token of a tokenizer or a chat template that stands in a text, or None."""
    found = _SPECIAL.search(text)
    return found.group() if found else None


def without_fence(text: str) -> str:
    """What a reply holds that is one code fence and nothing else; any other reply as it stands."""
    inside = text.strip().removeprefix(_FENCE).removesuffix(_FENCE)
    if len(inside) != len(text.strip()) - 2 * len(_FENCE) or _FENCE in inside:
        return text
    return _LANGUAGE.sub("", inside, count=1).strip() if "\n" in inside else inside.strip()


def _without_thinking(text: str) -> str:
    parts: list[str] = []
    position = 0
    while opened := _OPEN.search(text, position):
        parts.append(text[position : opened.start()])
        closed = _CLOSE.search(text, opened.end())
        if closed is None:
            raise ReplyError("the reply ended within its thinking; raise max_new_tokens")
        position = closed.end()
    parts.append(text[position:])
    # A closing tag alone: the template wrote the opening one, and all before it is thinking.
    alone = max((number for number, part in enumerate(parts) if _CLOSE.search(part)), default=0)
    spoken = [_CLOSE.split(part)[-1] for part in parts[alone:]]
    answers = [part for part in spoken if _strip_turn(part)]
    if len(answers) > 1:
        raise ReplyError(f"the reply holds an answer before its thinking and another after it: {text.strip()[-80:]!r}")
    return answers[0] if answers else ""


def _strip_turn(text: str) -> str:
    """A text without white space and without tokens of a chat template at its ends."""
    text = text.strip()
    while begun := _AT_START.match(text):
        text = text[begun.end() :].lstrip()
    while ended := _AT_END.search(text, max(len(text) - _LONGEST_TOKEN, 0)):
        text = text[: ended.start()].rstrip()
    return text
