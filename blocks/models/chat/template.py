"""The chat template that comes with weights: text in a language that can loop, written by whoever made the weights.

transformers renders it in jinja's sandbox, which reaches no file and no code. What the sandbox does not bound, its
length and its time, is bounded here: before a model is asked anything, one prompt is rendered and looked at.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from sightflow.blocks.models.weights import read_config
from sightflow.schemas.failure import ModelError

_MAX_BYTES = 256 * 2**10
"""The longest published templates have some tens of kilobytes."""
_MAX_RENDERED = 2**20
"""Characters that a template may make of a short question."""
_SECONDS = 20.0
_WORDS = "What is there? 7f3a"


def read_template(path: Path) -> str | None:
    """The chat template in a folder of weights: a file of its own, or in the processor's or the tokenizer's config.

    Raises ModelError if it is longer than any that was published.
    """
    template: Any
    try:
        with (path / "chat_template.jinja").open("rb") as file:
            template = file.read(_MAX_BYTES + 1).decode("utf-8", "replace")
    except OSError:
        names = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
        template = next((found for name in names if (found := read_config(path / name).get("chat_template"))), None)
        if isinstance(template, list):  # several, each with its name
            named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
            template = named.get("default")
    if not isinstance(template, str):
        return None
    if len(template.encode()) > _MAX_BYTES:
        raise ModelError(f"the chat template in {path} is longer than {_MAX_BYTES >> 10} KiB")
    return template


def check_template(processor: Any, seconds: float = _SECONDS) -> None:
    """Render a question about a picture as the processor's template words it.

    Raises ModelError if that takes longer, fails, grows past all measure, or leaves out the words or the picture.
    """
    made: list[str | Exception] = []
    thread = threading.Thread(target=lambda: made.extend(_rendered(processor)), name="chat template", daemon=True)
    thread.start()
    thread.join(seconds)
    if len(made) < 2:
        raise ModelError(f"the chat template was not rendered within {seconds:g} s")
    shown, plain = made
    if isinstance(shown, Exception):
        said = " ".join(str(shown).split())[:200]
        raise ModelError(f"the chat template fails on a question about a picture ({type(shown).__name__}: {said})")
    if len(shown) > _MAX_RENDERED:
        raise ModelError(f"the chat template makes {len(shown):,} characters of a short question")
    if _WORDS not in shown:
        raise ModelError("the chat template leaves out what is asked")
    if shown == plain:
        raise ModelError("the chat template leaves out the picture: it is one for text alone")


def media_token_ids(processor: Any, config: Any) -> frozenset[int]:
    """The tokens that stand for an image or a video in a prompt, before and after the processor has written it out.

    `config`: of the model; None if only the processor is in memory.
    """
    names = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
    found = {getattr(part, name, None) for part in (processor, config) for name in names}
    tokens = (getattr(processor, name, None) for name in ("image_token", "video_token"))
    found |= {processor.tokenizer.convert_tokens_to_ids(token) for token in tokens if isinstance(token, str)}
    return frozenset(each for each in found if isinstance(each, int) and each != processor.tokenizer.unk_token_id)


def _rendered(processor: Any) -> list[str | Exception]:
    """A question with a picture and one without, as the template words them, or what it raised."""
    made: list[str | Exception] = []
    for kinds in (("image",), ()):
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": _WORDS}]
        try:
            chat = [{"role": "user", "content": content}]
            made.append(str(processor.apply_chat_template(chat, add_generation_prompt=True)))
        except Exception as error:  # a template raises what it likes
            made.append(error)
    return made
