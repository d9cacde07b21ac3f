"""Tracks with masks through the whole flow: the pixels of each object in each frame, also over two windows."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect
from sightflow.flows.enrich import enrich
from sightflow.infra.demo.bucket import MODEL_FOLDER
from sightflow.infra.demo.moving_scenes import draw_clip, write_video
from sightflow.schemas.masks import decode_mask
from sightflow.schemas.spec_reader import read_spec

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
CLIP = draw_clip(1)
AS_THE_DOCS_SAY = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "videos.md").read_text(), re.DOTALL)[0]
LABELS = sorted({f"{mover.colour} {mover.shape}" for mover in CLIP.movers})


def test_each_place_of_a_track_has_the_mask_of_its_object(tmp_path: Path, write_spec: Any) -> None:
    (tmp_path / "media").mkdir()
    write_video(CLIP, tmp_path / "media" / "film.mp4")
    asked = {"capability": "object tracking", "labels": LABELS, "sampling": {"fps": 4, "max_frames": 10}}
    path = write_spec(
        f"{tmp_path}/media/*",
        models={"florence-2": {"id": str(MODEL_FOLDER)}},
        enrichments=[{**asked, "name": "boxes"}, {**asked, "name": "cut", "masks": True}],
    )
    spec = read_spec(path)
    report = enrich(spec)
    assert (report.published, report.quarantined) == (2, 0)
    catalog = Catalog(uri=spec.catalog)
    rows = {row["enrichment"]: row for row in catalog.scan("enrichments").collect().iter_rows(named=True)}
    for row in rows.values():
        assert [track["label"] for track in row["tracks"]] and {t["label"] for t in row["tracks"]} <= set(LABELS)
        for track in row["tracks"]:
            for point in track["points"]:
                assert (point["mask"] is None) == (row["enrichment"] == "boxes" or point["gap"])
    overlaps = []
    for track in rows["cut"]["tracks"]:
        for point in track["points"]:
            if point["gap"]:
                continue
            mask = decode_mask(point["mask"], CLIP.width, CLIP.height)
            columns = np.flatnonzero(mask.any(axis=0))
            assert point["x_min"] == pytest.approx(columns[0], abs=3) and point["x_max"] == pytest.approx(
                columns[-1] + 1, abs=3
            )
            true = [thing.mask for thing in CLIP.frame(point["frame_index"])[1] if thing.label == track["label"]]
            overlaps.append(max(((mask & each).sum() / (mask | each).sum() for each in true), default=0.0))
    assert len(overlaps) > 20 and np.mean(overlaps) > 0.8
    again = enrich(spec)
    assert (again.published, again.planned) == (0, 0)
    places = connect(catalog).sql(AS_THE_DOCS_SAY.replace("dogs", "cut")).fetchall()
    assert all(mask for *_, mask in places) and len(places) == len(overlaps)
