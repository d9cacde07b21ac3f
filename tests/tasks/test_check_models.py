"""What a spec says of models is checked as a whole, before anything is listed: with the line, and no key repeated."""

from pathlib import Path

import pytest

import sightflow
from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.route import check_models, resolve_enrichments

ASKED = "source: media/*\ncatalog: catalog\nenrichments:\n  - capability: captioning\n"


def refusal(folder: Path, text: str) -> str:
    path = folder / "spec.yaml"
    path.write_text(ASKED + text)
    with pytest.raises(SpecError) as raised:
        sightflow.read_spec(path)
    assert "canary" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("    model: flornce-2\n", 5, "enrichments[0].model: 'flornce-2' is not a system; did you mean florence-2?"),
        ("    model: off\n", 5, "enrichments[0].model: `off` without quotes is yes or no in YAML"),
        ("models:\n  typo: {key: canary}\n", 6, "models.typo: is not a system; allowed: llava-next"),
        ("models:\n  gpt4o: {}\n", 6, "models.gpt4o: is not a system; did you mean gpt-4o?"),
        ("models:\n  gpt-4o:\n    api_key: canary\n", 7, "models.gpt-4o.api_key: a spec holds no keys; put it"),
        ("models:\n  gpt-4o:\n    password: canary\n", 7, "models.gpt-4o.password: a spec holds no keys"),
        ("models:\n  florence-2:\n    batch_sise: 4\n", 7, "models.florence-2.batch_sise: there is no such"),
        ("models:\n  gpt-4o:\n    timeout: [canary]\n", 7, "models.gpt-4o.timeout: Input should be a valid number"),
        ("models:\n  gpt-4o:\n    max_attempts: yes\n", 7, "models.gpt-4o.max_attempts: is yes or no in YAML"),
        ("models:\n  gpt-4o:\n    id: 4\n", 7, "models.gpt-4o.id: `4` without quotes is a number in YAML, and text"),
        ("models:\n  gpt-4o:\n    base_url: http://me:canary@h\n", 7, "models.gpt-4o.base_url: holds a user name"),
        ("models:\n  florence-2: {engine: endpoint}\n", 6, "models.florence-2: "),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(text: str, line: int, says: str, tmp_path: Path) -> None:
    assert f"spec.yaml:{line}: {says}" in refusal(tmp_path, text)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    told = refusal(tmp_path, "    model: nobody\nmodels:\n  typo: {}\n  gpt-4o: {api_key: canary, nothing: 1}\n")
    assert [line.partition(": ")[2].partition(": ")[0] for line in told.splitlines()] == [
        "models.typo", "models.gpt-4o.api_key", "models.gpt-4o.nothing", "enrichments[0].model",
    ]  # fmt: skip


def test_settings_that_a_saved_block_completes_are_checked_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ASKED + "models:\n  florence-2: {block: served, engine: endpoint}\n")
    assert sightflow.read_spec(path).models["florence-2"]["block"] == "served"
    assert "models.florence-2.threads" in refusal(tmp_path, "models:\n  florence-2: {block: served, threads: 0}\n")


def test_a_spec_that_was_read_from_no_file_is_checked_too() -> None:
    document = {"source": "s3://bucket/**", "catalog": "s3://bucket/c", "enrichments": [{"capability": "captioning"}]}
    spec = EnrichmentSpec.model_validate({**document, "models": {"typo": {"key": "canary"}}})
    for check in (check_models, resolve_enrichments, sightflow.enrich, sightflow.plan):
        with pytest.raises(SpecError, match=r"^models\.typo: is not a system") as raised:
            check(spec)
        assert "canary" not in str(raised.value)


def test_an_enrichment_that_no_system_serves_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(ASKED + "  - capability: detection\n    model: llava-next\n")
    with pytest.raises(SpecError, match=r"(?s)spec.yaml:5: enrichments\[1\]: .*cannot do object_detection \(rated 0\)"):
        resolve_enrichments(sightflow.read_spec(path))
