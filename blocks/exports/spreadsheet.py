"""Text that goes into a spreadsheet, and is to stay text there."""

from __future__ import annotations

import re
import unicodedata

_FORMULA_STARTS = frozenset("=+-@\N{MINUS SIGN}")
_IGNORED_AT_THE_START = re.compile("[\\s\\x00\\ufeff\\u200b]*")


def no_formula(text: str) -> str:
    """Text with an apostrophe in front if a spreadsheet would run it: OWASP, CSV Injection."""
    start = text[_IGNORED_AT_THE_START.match(text).end() :][:1]  # type: ignore[union-attr]
    runs = text[:1] in ("\t", "\r", "\n") or unicodedata.normalize("NFKC", start) in _FORMULA_STARTS
    return f"'{text}" if runs else text
