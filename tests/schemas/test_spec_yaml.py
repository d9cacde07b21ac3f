"""The YAML of a spec: what would be read otherwise than it is written is refused, with its line and what to do."""

import pickle
import re
from pathlib import Path

import pytest

from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec_reader import read_spec
from sightflow.schemas.spec_yaml import MOST_BYTES
from tests.schemas.test_spec import GOOD, problem

ASKED = {
    "vqa": "source: a/*\ncatalog: b\nenrichments:\n  - capability: vqa\n    question: q?\n",
    "detection": "source: a/*\ncatalog: b\nenrichments:\n  - capability: detection\n",
}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD + "policy: {prune: true}\npolicy: {}\n", 6, "policy stands twice, here and in line 5"),
        (GOOD + "policy:\n  prune: true\n  stale: keep\n  prune: no\n", 8, "prune stands twice, here and in line 6"),
        (GOOD + "models: {florence-2: {id: a}, florence-2: {id: b}}\n", 5, "florence-2 stands twice"),
        (ASKED["vqa"] + "    language: no\n", 6, "language: `no` without quotes is yes or no in YAML.*quote it: 'no'"),
        (ASKED["vqa"] + "    choices: [maybe, Yes]\n", 6, r"choices\[1\]: `Yes` without quotes.*quote it: 'Yes'"),
        (ASKED["vqa"] + "    question: on\n", 6, "question stands twice"),
        (GOOD + "policy:\n  languages: [en,\n    no]\n", 7, r"policy.languages\[1\]: `no` without quotes"),
        (ASKED["detection"] + "    labels: off\n", 5, "labels: `off` without quotes is yes or no"),
        (ASKED["detection"] + "    labels: [1]\n", 5, r"labels\[0\]: `1` without quotes is a number"),
        (ASKED["detection"] + "    labels: [0777]\n", 5, "`0777` without quotes is a number"),
        (ASKED["detection"] + "    labels: [1_000]\n", 5, "`1_000` without quotes is a number"),
        (ASKED["detection"] + "    labels: [12:30:45]\n", 5, "`12:30:45` without quotes is a number"),
        (ASKED["detection"] + "    labels:\n      - dog\n      - ~\n", 7, "`~` without quotes is nothing at all"),
        (ASKED["detection"] + "    labels:\n      - dog\n      -\n", 7, r"labels\[1\]: has no value"),
        (ASKED["detection"] + "    labels: [2020-01-01]\n", 5, "`2020-01-01` without quotes is a date"),
        (ASKED["detection"] + "    labels: [2020-99-99]\n", 5, "`2020-99-99` without quotes is a date"),
        (ASKED["detection"] + "    sampling: {frames: yes}\n", 5, "sampling.frames: `yes` is yes or no in YAML"),
        (GOOD + "policy: {max_quarantine_ratio: no}\n", 5, "`no` is yes or no in YAML, and a number belongs here"),
        (GOOD + "policy: {max_quarantine_ratio: .nan}\n", 5, "is no number that a spec takes"),
        (GOOD + "policy: {commit_seconds: .inf}\n", 5, "is no number that a spec takes"),
        (GOOD + "models: {on: {}}\n", 5, "the key `on` without quotes is yes or no in YAML; quote it"),
        (GOOD + "models: {1: {}}\n", 5, "the key `1` without quotes is a number"),
        ("? [a, b]\n: c\n", 1, "a key is one word"),
        (GOOD + "store: !!python/object/apply:os.system ['touch x']\n", 5, "the tag !!python.* is not taken"),
        (GOOD + "store: !secret x\n", 5, "the tag !secret is not taken"),
        (GOOD + "policy: {shard_size: !!binary aGk=}\n", 5, "the tag !!binary is not taken"),
        (GOOD + "policy: {shard_size: 0x_}\n", 5, "is no number that can be read"),
        (GOOD + f"policy: {{shard_size: {'9' * 5000}}}\n", 5, "is no number that can be read"),
        (GOOD + 'policy: {licences: ["a\\0b"]}\n', 5, "holds an escape for a character that is no text"),
        (GOOD + 'policy: {licences: ["\\ud800"]}\n', 5, "holds an escape for a character that is no text"),
        (GOOD + "policy:\n\tprune: true\n", 6, "indent with spaces"),
        (GOOD + "---\n" + GOOD, 5, "a second document begins here"),
        (GOOD + "# \x07\n", 5, "is not printable"),
        (GOOD + "policy: *nowhere\n", 5, "undefined alias"),
        ("- source: a\n", 1, "a spec is a mapping"),
        ("source\n", 1, "a spec is a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_a_remedy(text: str, line: int, says: str, tmp_path: Path) -> None:
    told = problem(tmp_path, text)
    assert re.search(rf"spec\.yaml:{line}: .*{says}", told), told


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "source: &a [*a]\n",
        "source: &a {<<: *a}\n",
        "a: " + "[" * 100_000,
        "\n".join(" " * k + "a:" for k in range(200)),
        "a: [" + "x, " * 41_000 + "]",
        "a: " + "x" * MOST_BYTES,
    ],
    ids=["laughs", "itself", "merged with itself", "deep", "deep by lines", "wide", "large"],
)
def test_what_would_grow_without_end_is_refused(text: str, tmp_path: Path) -> None:
    assert re.search(r"expand to more than|too much to merge|has more than|is larger than", problem(tmp_path, text))


def test_aliases_and_merge_keys_mean_what_they_mean_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "source: a/*\ncatalog: b\nenrichments:\n"
        "  - &first {capability: detection, name: one, labels: &labels [dog, cat]}\n"
        "  - {<<: *first, name: two}\n"
        "  - {capability: segmentation, labels: *labels}\n"
    )
    one, two, three = read_spec(path).enrichments
    assert two == one.model_copy(update={"name": "two"})
    assert three.labels == one.labels == ("dog", "cat")


@pytest.mark.parametrize("written", ["'no'", '"no"', "!!str no", "'no'  # Norwegian"])
def test_what_is_quoted_is_text(written: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ASKED["vqa"] + f"    language: {written}\n    choices: ['yes', 'no', '1', '2020-01-01']\n")
    (asked,) = read_spec(path).enrichments
    assert asked.language == "no" and asked.choices == ("yes", "no", "1", "2020-01-01")


def test_switches_may_be_written_in_every_way_of_yaml(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    for word, meant in {"yes": True, "On": True, "true": True, "no": False, "OFF": False}.items():
        path.write_text(GOOD + f"policy: {{prune: {word}}}\n")
        assert read_spec(path).policy.prune is meant


def test_a_mark_of_the_byte_order_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert read_spec(path).source == ("s3://photos/**/*.jpg",)


def test_what_is_no_text_file_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"source: a\ncatalog: \xff\xfe\n")
    with pytest.raises(SpecError, match=r"spec.yaml:2: is not UTF-8; save it as UTF-8"):
        read_spec(path)
    with pytest.raises(SpecError, match="is a folder; name the spec file in it"):
        read_spec(tmp_path)


def test_where_its_values_stand_is_no_part_of_a_spec(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(GOOD)
    two.write_text("# a comment\n\n" + GOOD)
    assert read_spec(one) == read_spec(two)
    assert read_spec(two).explain(("catalog",), "is full") == f"{two}:4: catalog: is full"
    assert pickle.loads(pickle.dumps(read_spec(two))).explain(("catalog",), "is full") == "catalog: is full"


HIDDEN = {
    "store: canary-of-mine": "store: is a section",
    "policy: canary-of-mine": "policy: is a section",
    "models: canary-of-mine": "models: is a section",
    "models: {gpt-4o: canary-of-mine}": "models.gpt-4o: is a section",
    "runner: canary-of-mine": "runner.kind: Input should be 'threads' or 'dask'",
    "runner: sk-canary-1234567": "runner: holds what looks like a key",
    "runner: {kind: dask, address: 'tcp://me:canary@host:1'}": "runner.address: holds a user name or a password",
    "runner: {kind: dask, settings: {password: canary}}": "password: a spec holds no keys",
    "listing: s3://ID:canary/x@bucket/y/": "listing: holds a user name or a password",
    "store: {endpoint_url: 'http://me:canary@host'}": "store.endpoint_url: holds a user name or a password",
    "store: {secret_access_key: canary}": "store.secret_access_key: is not a known key.*environment or a saved block",
    "models: {gpt-4o: {api_key: sk-canary-1234567}}": "models.gpt-4o.api_key: holds what looks like a key",
    "policy: {stale: canary1234567890canary}": "policy.stale: Input should be 'recompute' or 'keep'",
    "policy: {stale: [canary]}": "policy.stale: Input should be 'recompute' or 'keep'",
    "policy: {shard_size: canary1234567890canary}": "policy.shard_size: Input should be a valid integer",
    "AKIACANARY1234567890: x": "in the place of a name",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_a_key_is_named_by_its_place_and_not_repeated(text: str, tmp_path: Path) -> None:
    told = problem(tmp_path, GOOD + text + "\n")
    assert re.search(rf"spec\.yaml:(5|1): .*{HIDDEN[text]}", told), told
    assert "canary" not in told.casefold()
