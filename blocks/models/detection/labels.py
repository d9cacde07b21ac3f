"""The labels that are asked for, and those that a detector knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sightflow.schemas.spec_reader import closest

_NO_LABEL = frozenset({"", "n/a"})
"""What stands in a table of labels for a number that means nothing."""
_SHOWN = 12


def known_labels(config: Mapping[str, object]) -> dict[int, str]:
    """The labels of a closed-set detector by their number, out of its config (`id2label`)."""
    table = config.get("id2label")
    if not isinstance(table, Mapping):
        return {}
    return {int(k): str(v) for k, v in table.items() if str(k).isdecimal() and _plain(str(v)) not in _NO_LABEL}


def asked_labels(known: Mapping[int, str], wanted: Sequence[str]) -> dict[int, str]:
    """By the number of each label that is looked for, how it is asked for: all that are known, if nothing is wanted.

    Upper case, hyphens and underscores make no difference: `Traffic-Light` is the model's `traffic light`.
    """
    if not wanted:
        return dict(known)
    spelled = {_plain(label): label for label in wanted}
    return {number: spelled[_plain(label)] for number, label in known.items() if _plain(label) in spelled}


def unknown_label(known: Mapping[int, str], wanted: Iterable[str]) -> str | None:
    """What is wrong with the labels that are wanted, if the model does not know one, with the nearest; else None."""
    plain = {_plain(label): label for label in known.values()}
    for label in wanted:
        if _plain(label) not in plain:
            nearest = closest(_plain(label), plain)
            labels = list(plain.values())
            more = f", and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
            return f"knows no label {label!r}; {nearest}it knows {', '.join(labels[:_SHOWN])}{more}"
    return None


def _plain(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold()
