"""YAML as a spec file takes it: values with their lines, and what YAML reads otherwise than it is written is refused.

YAML 1.1 (https://yaml.org/spec/1.1/) with PyYAML's safe loader, less what a spec has no use for: tags of other types,
dates, numbers without an end, keys that are no text, a key that stands twice. Anchors, aliases and merge keys are
taken; what they expand to is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from sightflow.schemas.failure import SpecError
from sightflow.schemas.redaction import Place

MOST_BYTES = 2**20
MOST_DEPTH = 32
MOST_VALUES = 20_000
"""Values of a document once its aliases are expanded."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_TEXT = {f"{_TAG}str", f"{_TAG}value"}
_CONSTRUCTOR = SafeConstructor()
_READ_AS = {
    "bool": "yes or no",
    "int": "a number",
    "float": "a number",
    "null": "nothing at all",
    "timestamp": "a date",
}


@dataclass(frozen=True)
class SpecPlaces:
    """Where the values of a spec stand in its file. It is no part of what a spec says: any two are equal.

    `lines`: by place, counted from 1. `unquoted`: the words as written, where YAML reads them as no text. `is_a_file`:
    whether the spec was read from a file that its user gave, in this process or the one that sent it here.
    """

    file: str = field(default="", compare=False)
    lines: Mapping[Place, int] = field(default_factory=dict, compare=False)
    unquoted: Mapping[Place, str] = field(default_factory=dict, compare=False)
    is_a_file: bool = field(default=False, compare=False)

    def __reduce__(self) -> tuple[type[SpecPlaces], tuple[object, ...]]:
        # Another process has no use for the lines, and a spec goes along with every shard.
        return SpecPlaces, ("", {}, {}, self.is_a_file)

    def explain(self, place: Place, problem: str) -> str:
        """A problem as `file:line: place: what is wrong`; the line is of the nearest thing above that is there."""
        dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")
        line = next((self.lines[place[:size]] for size in range(len(place), -1, -1) if place[:size] in self.lines), 1)
        where = f"{self.file}:{line}: " if self.file else ""
        return f"{where}{dotted + ': ' if dotted else ''}{problem}"

    def quoting_advice(self, place: Place) -> str | None:
        """What to do about a word that YAML does not read as text, where text belongs; None for any other value."""
        word = self.unquoted.get(place)
        if word is None:
            return None
        if not word:
            return "has no value; write one, or leave the key out"
        read_as = _READ_AS.get(_kind_of(word), "no text")
        return f"`{word[:40]}` without quotes is {read_as} in YAML, and text belongs here; quote it: '{word[:40]}'"


def read_yaml(path: Path) -> tuple[dict[str, Any], SpecPlaces]:
    """The mapping in a YAML file, made of dicts, lists, texts, numbers, booleans and None, and where its values stand.

    Raises SpecError, with the line where there is one.
    """
    text = _text_of(path)
    try:
        reader = _SpecLoader(text, path)
        try:
            root = reader.get_single_node()
        finally:
            reader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecError(f"{path}:{mark.line + 1 if mark else 1}: is not YAML: {_said(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"{path}:{line}: is not YAML: it holds a character that is not printable; remove it") from None
    if not isinstance(root, yaml.MappingNode):
        raise SpecError(f"{path}:1: a spec is a mapping with source, catalog and enrichments")
    values = _Values(path)
    document = values.of(root, ())
    return document, SpecPlaces(str(path), values.lines, values.unquoted)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder; name the spec file in it") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise SpecError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MOST_BYTES:
        raise SpecError(f"{path}: is larger than {MOST_BYTES // 1024} KiB; a long list of objects belongs in `listing`")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: is not UTF-8; save it as UTF-8") from None


def _said(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces"
    if "found another document" in problem:
        return "a second document begins here; a spec is one document: remove the `---`"
    return problem


class _SpecLoader(yaml.SafeLoader):
    """PyYAML's own, which ends before a document is too deep for Python's stack or too large."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self._path, self._depth, self._values = path, 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._values += 1
        if self._depth > MOST_DEPTH or self._values > 2 * MOST_VALUES:  # keys are nodes too
            what = f"{MOST_DEPTH} levels" if self._depth > MOST_DEPTH else f"{MOST_VALUES:,} values"
            raise SpecError(f"{self._path}:{self._line()}: has more than {what}")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _line(self) -> int:
        return int(self.peek_event().start_mark.line) + 1  # type: ignore[no-untyped-call]


class _Values:
    """Makes values of YAML's nodes, and notes where each stands."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[Place, int] = {}
        self.unquoted: dict[Place, str] = {}
        self._path = path
        self._open: list[yaml.Node] = []
        self._values = 0

    def of(self, node: yaml.Node, place: Place) -> Any:
        self._values += 1
        if self._values > MOST_VALUES or len(self._open) > MOST_DEPTH or node in self._open:
            raise self._refusal(node, f"its aliases expand to more than {MOST_VALUES:,} values, or to themselves")
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != _TAG + kind:
            raise self._refusal(node, f"the tag {node.tag.replace(_TAG, '!!')} is not taken; remove it")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return {key: self._member(key_node, value, (*place, key)) for key, key_node, value in self._items(node)}
            return [self.of(item, (*place, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.pop()

    def _member(self, key: yaml.Node, value: yaml.Node, place: Place) -> Any:
        if isinstance(value, yaml.ScalarNode):  # of a block, the line where it begins is where a reader looks
            self.lines[place] = key.start_mark.line + 1
        return self.of(value, place)

    def _items(self, node: yaml.MappingNode) -> list[tuple[str, yaml.Node, yaml.Node]]:
        """The keys and values of a mapping, those that are merged into it included."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        first: dict[str, int] = {}
        for key, value in node.value:
            name = "<<" if key.tag == _MERGE else self._key(key)
            line = key.start_mark.line + 1
            if name in first:
                raise self._refusal(key, f"{name[:40]} stands twice, here and in line {first[name]}; remove one")
            first[name] = line
            if key.tag == _MERGE:
                for name, *pair in self._merged(value):
                    merged.setdefault(name, (pair[0], pair[1]))
            else:
                own[name] = (key, value)
        return [(name, *pair) for name, pair in ({n: p for n, p in merged.items() if n not in own} | own).items()]

    def _merged(self, node: yaml.Node) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        self._values += 1
        mappings = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for mapping in mappings:
            if not isinstance(mapping, yaml.MappingNode):
                raise self._refusal(node, "<< takes the alias of a mapping")
            if self._values > MOST_VALUES or len(self._open) > MOST_DEPTH or mapping in self._open:
                raise self._refusal(node, "<< has too much to merge, or itself")
            self._open.append(mapping)
            items = self._items(mapping)
            self._values += len(items)
            self._open.pop()
            yield from items

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._refusal(node, "a key is one word, and no list or mapping")
        if node.tag not in _TEXT:
            read_as = _READ_AS.get(node.tag.removeprefix(_TAG), "no text")
            raise self._refusal(node, f"the key `{node.value[:40]}` without quotes is {read_as} in YAML; quote it")
        return self._checked_text(node)

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if node.tag in _TEXT:
            return self._checked_text(node)
        if kind not in _READ_AS or kind == node.tag:
            raise self._refusal(node, f"the tag {node.tag.replace(_TAG, '!!')} is not taken; remove it")
        if kind == "timestamp":
            raise self._refusal(
                node, f"`{node.value[:40]}` without quotes is a date in YAML; quote it: '{node.value[:40]}'"
            )
        try:
            value = _construct(node)
        except (ValueError, OverflowError, KeyError, TypeError):  # e.g. `0x_`, a number of 5,000 digits, `!!bool maybe`
            raise self._refusal(node, f"`{node.value[:40]}` is no number that can be read; text is quoted") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refusal(node, f"`{node.value[:40]}` is no number that a spec takes; give one with an end")
        self.unquoted[place] = node.value
        return value

    def _checked_text(self, node: yaml.ScalarNode) -> str:
        text: str = node.value
        if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise self._refusal(node, "holds an escape for a character that is no text; remove it")
        return text

    def _refusal(self, node: yaml.Node, problem: str) -> SpecError:
        return SpecError(f"{self._path}:{node.start_mark.line + 1}: {problem}")


def _construct(node: yaml.ScalarNode) -> Any:
    kind = node.tag.removeprefix(_TAG)
    return getattr(_CONSTRUCTOR, f"construct_yaml_{kind}")(node)


def _kind_of(word: str) -> str:
    """What YAML reads a word as that stands without quotes."""
    return str(Resolver().resolve(yaml.ScalarNode, word, (True, False))).removeprefix(_TAG)  # type: ignore[no-untyped-call]
