"""Results belong to their objects, through the whole program: whatever the order, each row is true of its own scene."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows import enrich as pipeline
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.evaluate import scores
from sightflow.infra.demo.scenes import Scene, draw_scene
from sightflow.infra.demo.shapes_vocabulary import LABELS, article
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import RunPlan, Shard
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.runtime.sharding import shards_of

pytestmark = pytest.mark.usefixtures("prefect_server")
SCENES = [draw_scene(seed) for seed in range(500, 540)]
ASKED = [
    {"capability": "image captioning", "name": "caption"},
    {"capability": "object detection", "name": "objects"},
    {"capability": "visual grounding", "name": "grounded", "phrases": [f"{article(x)} {x}" for x in LABELS]},
]
MEASURED = ("caption exact", "detection mAP@0.5", "grounding accuracy@0.5")


def noise(scene: Scene) -> Image.Image:
    shape = (scene.image.height, scene.image.width, 3)
    return Image.fromarray(np.random.default_rng(scene.seed).integers(0, 256, shape, dtype=np.uint8))


def saved(folder: Path, images: Sequence[tuple[int, Image.Image]]) -> str:
    folder.mkdir()
    for seed, image in images:
        image.save(folder / f"{seed:04d}.png")
    return f"{folder}/*"


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Let each run cut and order its shards anew, by chance."""
    chance = random.Random(8)

    def cut(run_plan: RunPlan, policy: Policy, shard_sizer: ShardSizer) -> Iterator[Shard]:
        rows = run_plan.frame.sample(fraction=1, shuffle=True, seed=chance.randrange(10**6))
        shards = list(shards_of(replace(run_plan, frame=rows), policy, shard_sizer))
        return iter(chance.sample(shards, len(shards)))

    monkeypatch.setattr(pipeline, "shards_of", cut)
    return chance


def published(write_spec: Any, source: str, catalog: Path, shard_size: int, batch_size: int) -> pl.DataFrame:
    models = {"florence-2": {"id": str(MODEL_FOLDER), "device": "cpu", "dtype": "float32", "batch_size": batch_size}}
    policy = {"shard_size": shard_size, "max_quarantine_ratio": 1.0}
    path = write_spec(source, catalog=str(catalog), enrichments=ASKED, models=models, policy=policy)
    pipeline.enrich(read_spec(path))
    rows = Catalog(uri=read_spec(path).catalog).scan("enrichments").collect()
    return rows.sort("uri", "enrichment").drop("run_id", "inferred_at")


def test_every_row_is_true_of_its_own_scene_in_any_order(
    tmp_path: Path, write_spec: Any, shuffled: random.Random
) -> None:
    source = saved(tmp_path / "scenes", [(scene.seed, scene.image) for scene in SCENES])
    some = published(write_spec, source, tmp_path / "some", shard_size=7, batch_size=5)
    many = published(write_spec, source, tmp_path / "many", shard_size=23, batch_size=16)
    assert some.equals(many)
    reached = scores(SCENES, some)
    assert min(reached[name] for name in MEASURED) >= 0.9, reached
    # The measure would tell rows that had changed places.
    keys = [f"file:///{scene.seed:04d}.png" for scene in (*SCENES[1:], SCENES[0])]
    there = dict(zip(sorted(some["uri"].unique()), keys, strict=True))
    moved = scores(SCENES, some.with_columns(pl.col("uri").replace_strict(there)))
    assert max(moved[name] for name in MEASURED) <= 0.2, moved


def test_a_model_that_did_not_see_the_picture_is_told_apart(tmp_path: Path, write_spec: Any) -> None:
    source = saved(tmp_path / "noise", [(scene.seed, noise(scene)) for scene in SCENES])
    reached = scores(SCENES, published(write_spec, source, tmp_path / "blind", shard_size=20, batch_size=16))
    assert max(reached[name] for name in MEASURED) <= 0.1, reached
