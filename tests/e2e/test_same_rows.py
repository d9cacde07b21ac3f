"""What makes a run fast changes no row: everything on at once, and everything off at once."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.engines.transformers.chat_generation import ChatGenerator
from sightflow.blocks.models.engines.transformers.engine import TransformersEngine
from sightflow.blocks.models.systems.florence2 import Florence2Generator
from sightflow.flows.enrich import enrich
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.scenes import draw_scene
from sightflow.schemas.spec_reader import read_spec
from tests.tiny_models import qwen_vl

pytestmark = pytest.mark.usefixtures("prefect_server")
CHOICES = ["red", "dark blue", "green", "yes", "no"]
QUESTIONS = ("what colour is it ?", "is it large or small ?", "is there a star ?")
OPEN_QUESTIONS = ("why ?", "how many are there ?")  # these weights do not stop by themselves: their replies are cut off
ANSWERING = "visual question answering"
ASKED = [
    {"capability": "image captioning", "name": "caption", "model": "florence-2"},
    {"capability": "object detection", "name": "objects", "model": "florence-2"},
    {"capability": "visual grounding", "name": "grounded", "phrases": ["a red circle"], "model": "florence-2"},
    *(
        {"capability": ANSWERING, "model": "qwen2-vl", "name": f"choice{k}", "question": question, "choices": CHOICES}
        for k, question in enumerate(QUESTIONS)
    ),
    *(
        {"capability": ANSWERING, "model": "qwen2-vl", "name": f"open{k}", "question": question}
        for k, question in enumerate(OPEN_QUESTIONS)
    ),
]
SLOW_POLICY = {"shard_size": 1, "shards_ahead": 1, "commit_rows": 1}
SCENES = 8
OF_THE_RUN = ("run_id", "inferred_at")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures of several sizes, among them large ones, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed in range(SCENES):
        side = (96, 160, 300, 640)[seed % 4]
        draw_scene(700 + seed).image.resize((side, side)).save(folder / f"{seed:02d}.jpg", quality=90)
    whole = (folder / "00.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    return f"{folder}/*"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen") / "weights"
    qwen_vl.build(folder, generation="qwen2_vl")
    return folder


def rows(write_spec: Any, source: str, catalog: Path, qwen: Path, fast: bool, asked: list[Any]) -> None:
    common = {"device": "cpu", "dtype": "float32", "batch_size": 16 if fast else 1, "threads": 1 if fast else None}
    models = {
        "florence-2": {"id": str(MODEL_FOLDER), **common},
        "qwen2-vl": {"id": str(qwen), **common, "max_new_tokens": 12, "share_prefix": fast},
    }
    policy = {"max_quarantine_ratio": 1.0} | ({} if fast else SLOW_POLICY)
    spec = read_spec(write_spec(source, catalog=str(catalog), enrichments=asked, models=models, policy=policy))
    enrich(spec)


def found(catalog: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    table = Catalog(uri=f"file://{catalog}")
    good = table.scan("enrichments").collect().sort("uri", "enrichment").drop(OF_THE_RUN)
    bad = table.scan("quarantine").collect().sort("uri", "enrichment").drop("run_id", "failed_at")
    return good, bad


def test_everything_on_and_everything_off_give_the_same_rows(
    tmp_path: Path, write_spec: Any, scenes: str, qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sightflow.blocks.models.engines.transformers.engine.chosen_threads", lambda: 2
    )  # two batches at once, with `threads: 1`
    rows(write_spec, scenes, tmp_path / "fast", qwen, fast=True, asked=ASKED)

    monkeypatch.setattr(TransformersEngine, "_preprocessed", lambda self, batch: None)
    monkeypatch.setattr(TransformersEngine, "max_calls", 1)
    seen: list[int] = []
    for runs in (Florence2Generator, ChatGenerator):
        generate = runs.generate

        def noted(self: Any, batch: Any, inputs: Any, generate: Any = generate) -> Any:
            seen.append(len(batch))
            return generate(self, batch, inputs)

        monkeypatch.setattr(runs, "generate", noted)
    for each in ASKED:  # a run of its own for each enrichment: nothing is decoded or read for two
        rows(write_spec, scenes, tmp_path / "slow", qwen, fast=False, asked=[each])
    assert set(seen) == {1} and len(seen) == SCENES * len(ASKED)
    fast, slow = found(tmp_path / "fast"), found(tmp_path / "slow")
    assert fast[0].height == SCENES * (len(ASKED) - len(OPEN_QUESTIONS))
    assert fast[1].height == len(ASKED) + SCENES * len(OPEN_QUESTIONS)
    assert fast[0].equals(slow[0])
    assert fast[1].equals(slow[1])
    assert fast[1]["raw_reply"].n_unique() > SCENES, "random weights say different things of different pictures"
