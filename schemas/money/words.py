"""Money, tokens and time in words, the same on every screen."""

from __future__ import annotations


def money(dollars: float) -> str:
    """US dollars, as exact as small prices need; nothing is `free`."""
    return "free" if dollars == 0 else f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.4g}"


def count_of_tokens(tokens: float | None) -> str:
    """A number of tokens to three digits, e.g. `1.23M`; `?` where it is not known."""
    if tokens is None:
        return "?"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= unit * 0.9995:
            return f"{tokens / unit:.3g}{name}"
    return f"{tokens:.0f}"


def length_of_time(seconds: float | None) -> str:
    """A length of time, e.g. `6 min`; `?` where it is not known."""
    if seconds is None:
        return "?"
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.2g} {name}" if seconds < 10 * unit else f"{seconds / unit:,.0f} {name}"
    return f"{max(1.0, seconds):.0f} s" if seconds else "0 s"
