"""The spec: a mistake is told with its line, what is wrong and what is allowed, before anything else happens."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sightflow.schemas.capability import Capability
from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec import EnrichmentSpec, RunnerSettings
from sightflow.schemas.spec_reader import read_spec

GOOD = """\
source: s3://photos/**/*.jpg
catalog: s3://photos-catalog/main
enrichments:
  - capability: image captioning
"""


def problem(tmp_path: Path, text: str) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as raised:
        read_spec(path)
    return str(raised.value)


def test_a_small_spec_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD)
    spec = read_spec(path)
    assert spec.source == ("s3://photos/**/*.jpg",)
    assert spec.enrichments[0].capability is Capability.IMAGE_CAPTIONING
    assert spec.enrichments[0].name == "image_captioning"


def test_local_paths_are_taken_from_the_spec_s_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD.replace("s3://photos/**/*.jpg", "media/*").replace("s3://photos-catalog/main", "out"))
    spec = read_spec(path)
    assert spec.source == (f"file://{tmp_path}/media/*",)
    assert spec.catalog == f"file://{tmp_path}/out"


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        ({"source:": "sources:"}, 1, ["sources", "did you mean source"]),
        ({"s3://photos/**/*.jpg": "ftp://photos/x"}, 1, ["ftp", "s3://bucket/key"]),
        ({"s3://photos/**/*.jpg": "s3://"}, 1, ["bucket"]),
        ({"s3://photos-catalog/main": "s3://photos-catalog"}, 2, ["whole bucket", "folder"]),
        ({"s3://photos-catalog/main": "s3://photos-catalog/*/x"}, 2, ["glob"]),
        ({"s3://photos-catalog/main": "a|b"}, 2, ["may not hold"]),
        ({"image captioning": "smell"}, 4, ["smell", "image_captioning", "segmentation"]),
        ({"image captioning": "vqa"}, 4, ["needs question"]),
        ({"image captioning": "visual grounding"}, 4, ["needs phrases"]),
        ({"image captioning": "image captioning\n    labels: [dog]"}, 4, ["takes no labels", "detail"]),
        ({"image captioning": "image captioning\n    colour: red"}, 5, ["colour", "allowed"]),
        ({"image captioning": "vqa\n    question: a?\n    choices: [one]"}, 4, ["at least two"]),
        ({"image captioning": "image captioning\n  - capability: image captioning"}, 4, ["two enrichments"]),
        ({"enrichments:\n  - capability: image captioning\n": "enrichments: []\n"}, 3, ["at least 1"]),
        (
            {"image captioning\n": "image captioning\npolicy: {max_quarantine_ratio: 7}\n"},
            5,
            ["less than or equal to 1"],
        ),
    ],
)
def test_each_mistake_is_told_with_its_line(tmp_path: Path, change: dict[str, str], line: int, says: list[str]) -> None:
    text = GOOD
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    told = problem(tmp_path, text)
    assert f"spec.yaml:{line}:" in told
    for word in says:
        assert word in told


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("0", "is too little to decode images in; write 64MiB or more"),
        ("-1", "too little"),
        ("-4GiB", "is no amount of memory; write it like 4GiB"),
        ("63MiB", "too little"),
        ("lots", "no amount"),
        ("4 gallons", "no amount"),
        ("0.5", "no amount"),
        ("[4GiB]", "no amount"),
        ("yes", "no amount"),
        ('""', "no amount"),
    ],
)
def test_what_is_no_memory_to_work_in_is_told_with_its_line(tmp_path: Path, written: str, says: str) -> None:
    told = problem(tmp_path, f"{GOOD}policy:\n  memory: {written}\n")
    assert "spec.yaml:6: policy.memory: " in told and says in told


@pytest.mark.parametrize(
    ("written", "bytes_"),
    [
        ("4GiB", 2**32),
        ("1.5 gib", 3 * 2**29),
        ("512MB", 512_000_000),
        ("64MiB", 2**26),
        ("100000000", 10**8),
        ("~", None),
    ],
)
def test_memory_is_written_with_its_unit_or_in_bytes(tmp_path: Path, written: str, bytes_: int | None) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(f"{GOOD}policy: {{memory: {written}}}\n")
    spec = read_spec(path)
    assert spec.policy.memory == bytes_
    assert EnrichmentSpec.model_validate_json(spec.model_dump_json()).policy.memory == bytes_


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    told = problem(tmp_path, GOOD.replace("s3://photos/", "ftp://photos/").replace("image captioning", "smell"))
    assert "ftp" in told and "smell" in told


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "source: [", "\x00"])
def test_what_is_no_spec_at_all_is_told_kindly(tmp_path: Path, text: str) -> None:
    assert "spec.yaml" in problem(tmp_path, text)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        read_spec(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "asked",
    [
        {"capability": "image captioning", "detail": "paragraph"},
        {"capability": "vqa", "question": "what?", "choices": ["a", "b"], "sampling": {"fps": 2}},
        {"capability": "reasoning", "question": "why?", "language": "zh"},
        {"capability": "grounding", "phrases": ["a dog"]},
        {"capability": "detection"},
        {"capability": "segmentation", "labels": "dog"},
        {"capability": "tracking", "sampling": {"keyframes": True}, "media": "video"},
        {"capability": "video captioning", "prompt": "say it"},
    ],
)
def test_a_spec_that_was_stored_is_the_same_spec(asked: dict[str, Any]) -> None:
    spec = EnrichmentSpec.model_validate(
        {"source": "s3://bucket/**", "catalog": "s3://bucket/c", "enrichments": [asked]}
    )
    assert EnrichmentSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "runner",
    [
        {"cluster": "subprocess.Popen"},
        {"cluster": "os.system"},
        {"cluster": "distributed.SSHCluster"},
        {"cluster": "distributed.SpecCluster"},
        {"cluster": "dask_kubernetes.operator.main"},
        {"cluster": "dask_kubernetes_evil.KubeCluster"},
        {"cluster": "sightflow.tasks.runtime.local_cluster.os.system"},
        {"cluster": "distributed.LocalCluster", "settings": {"preload": ["import os"]}},
        {"settings": {"preload_nanny": ["x"]}},
        {"settings": {"worker_class": "subprocess.Popen"}},
        {"settings": {"scheduler_kwargs": {"preload": ["import os"]}}},
        {"settings": {"config": {"distributed.worker.preload": ["import os"]}}},
        {"settings": {"worker_options": [{"plugins": ["x"]}]}},
        {"settings": {"job_script_prologue": ["id"]}},
        {"settings": {"worker_command": "id", "python": "/tmp/x"}},
    ],
)
def test_a_runner_names_no_code(runner: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"is not known to start a Dask cluster|would run code"):
        RunnerSettings.model_validate({"kind": "dask"} | runner)


@pytest.mark.parametrize(
    "cluster", ["distributed.LocalCluster", "dask_kubernetes.operator.KubeCluster", "dask_jobqueue.SLURMCluster"]
)
def test_the_clusters_of_dask_s_packages_can_be_named(cluster: str) -> None:
    assert RunnerSettings(kind="dask", cluster=cluster, settings={"n_workers": 2}).cluster == cluster
