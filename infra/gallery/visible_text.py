"""Text of others, for a page: what steers the reader's eye or terminal is shown as a mark, and not in force."""

from __future__ import annotations

import re
from typing import Any, Final

from markupsafe import Markup, escape

# Control characters but for tab and line end, among them ESC of ANSI sequences; marks, embeddings, overrides and
# isolates of the bidirectional algorithm (UAX #9); zero-width space and word joiner, byte order mark; language tags;
# what is no character. A zero-width joiner stays: it is part of emoji and of Indic scripts.
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(value: Any) -> str:
    """Plain text in which every such character is written as ⟨U+202E⟩."""
    return _HIDDEN.sub(lambda found: _mark(found[0]), str(value))


def visible_html(value: Any) -> Markup:
    """The same as escaped HTML, with the marks set apart."""
    text, parts, end = str(value), list[Markup](), 0
    for found in _HIDDEN.finditer(text):
        parts += [
            escape(text[end : found.start()]),
            Markup('<span class="hidden-character">{}</span>').format(_mark(found[0])),
        ]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _mark(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
