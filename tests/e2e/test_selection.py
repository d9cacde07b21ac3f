"""Backfills in steps, and failures tried again: a run looks at a part and the catalog knows the rest."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import Cause
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_command_line import sightflow
from tests.e2e.test_incremental import flat
from tests.stand_in_model import StandIn

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = tmp_path / "media"
    for part in ("a", "b"):
        (media / part).mkdir(parents=True)
        for k in range(10):
            (media / part / f"{k}.png").write_bytes(flat((k, 20, 30)))
    return media


def published(spec: Path) -> set[str]:
    frame = Catalog(uri=read_spec(spec).catalog).scan("enrichments").select("uri").collect()
    return {"/".join(uri.split("/")[-2:]) for uri in frame["uri"]}


def test_a_backfill_goes_in_steps_and_ends(folder: Path, write_spec: Any, stand_in: type[StandIn]) -> None:
    spec = write_spec(f"{folder}/**")
    steps = [enrich(read_spec(spec), Selection(limit=8)).published for _ in range(4)]
    assert steps == [8, 8, 4, 0]
    assert max(stand_in.asked.values()) == 1


def test_a_prefix_and_a_time_choose_and_nothing_else_counts_as_gone(
    folder: Path, write_spec: Any, stand_in: type[StandIn]
) -> None:
    spec = write_spec(f"{folder}/**", policy={"prune": True})
    assert enrich(read_spec(spec), Selection(prefix=str(folder / "a"))).published == 10
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for k in range(7):
        os.utime(folder / "b" / f"{k}.png", (yesterday.timestamp(), yesterday.timestamp()))
    report = enrich(read_spec(spec), Selection(since=datetime.now(UTC) - timedelta(hours=1)))
    assert (report.published, report.pruned, report.orphaned) == (3, 0, 0)
    assert published(spec) == {f"a/{k}.png" for k in range(10)} | {f"b/{k}.png" for k in (7, 8, 9)}


def test_a_sample_is_the_same_objects_and_grows_with_its_share(
    folder: Path, write_spec: Any, stand_in: type[StandIn]
) -> None:
    spec = write_spec(f"{folder}/**")
    enrich(read_spec(spec), Selection(sample=0.4))
    some = published(spec)
    assert 0 < len(some) < 20
    assert enrich(read_spec(spec), Selection(sample=0.4)).published == 0
    enrich(read_spec(spec), Selection(sample=0.8))
    assert some < published(spec)


def test_a_replay_asks_again_what_failed_by_cause(folder: Path, write_spec: Any, stand_in: type[StandIn]) -> None:
    (folder / "a" / "0.png").write_bytes(b"")
    (folder / "a" / "1.png").write_bytes(b"no picture")
    spec = write_spec(f"{folder}/**")
    assert enrich(read_spec(spec)).causes == {"unreadable": 1, "unsupported": 1}
    assert enrich(read_spec(spec)).quarantined == 0  # permanent causes are not tried again by themselves
    stand_in.reset()
    again = enrich(read_spec(spec), Selection(replay=True, causes=(Cause.UNREADABLE,)))
    assert (again.causes, again.published) == ({"unreadable": 1}, 0)
    assert enrich(read_spec(spec), Selection(replay=True, system="gpt-4o")).planned == 0
    assert not stand_in.asked


def test_what_a_replay_settles_leaves_the_quarantine(
    folder: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object stays as it is; what refused it has changed (here: the limit on pixels, which is no recipe)."""
    spec = write_spec(f"{folder}/**", models={}, policy={"limits": {"max_pixels": 10}, "max_quarantine_ratio": 1.0})
    assert sightflow("run", str(spec)).returncode == 0
    catalog = Catalog(uri=read_spec(spec).catalog)
    assert set(catalog.scan("quarantine").collect()["cause"]) == {"too_large"}
    spec = write_spec(f"{folder}/**", models={})
    assert "nothing to do" in sightflow("run", str(spec)).stdout and not published(spec)
    done = sightflow("replay", str(spec), "--cause", "too_large")
    assert done.returncode == 0, done.stderr
    assert "20 published" in done.stdout
    assert catalog.scan("quarantine").collect().is_empty()
    # By the catalog: the last run left its enrichments there; what is stored beside them is never run.
    alone = sightflow("replay", str(folder.parent / "catalog"))
    assert alone.returncode == 2 and "--spec SPEC" in alone.stderr
    assert sightflow("replay", str(folder.parent / "catalog"), "--spec", str(spec)).returncode == 0


def test_a_stored_spec_that_names_code_a_store_or_an_address_is_never_followed(
    folder: Path, write_spec: Any, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    spec = write_spec(f"{folder}/**", models={}, policy={"limits": {"max_pixels": 10}, "max_quarantine_ratio": 1.0})
    assert sightflow("run", str(spec)).returncode == 0
    catalog = Catalog(uri=read_spec(spec).catalog)
    (row,) = catalog.scan("runs").collect().to_dicts()
    report = json.loads(row["report"])
    report["spec"] |= {
        "source": ["s3://somebody-elses/**"],
        "store": {"endpoint_url": "http://127.0.0.1:9"},
        "runner": {"kind": "dask", "cluster": "subprocess.Popen", "settings": {"args": ["touch", str(marker)]}},
        "models": {"gpt-4o": {"base_url": "http://127.0.0.1:9"}},
    }
    hostile = row | {"run_id": "hostile", "report": json.dumps(report), "started_at": datetime.now(UTC)}
    catalog.record_run(pl.DataFrame([hostile], schema=catalog.scan("runs").collect_schema()))
    done = sightflow("replay", read_spec(spec).catalog, "--spec", str(spec))
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
