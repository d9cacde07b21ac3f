"""A run whose source, catalog and lists lie with Google or Azure, driven and killed as one on S3 is."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.spec_reader import read_spec
from tests.clouds import Cloud
from tests.command_line import app
from tests.e2e.test_incremental import flat
from tests.e2e.test_killed import ASKED, QUICK, asked, content, published, start

pytestmark = pytest.mark.usefixtures("prefect_server")


def fill(cloud: Cloud, count: int) -> None:
    for k in range(count):
        cloud.put(f"media/{k:03d}.png", flat((k, 255 - k, 7)))
    cloud.put("media/broken.png", b"\x89PNG broken")


def test_a_run_from_source_to_catalog_and_all_that_reads_it(
    cloud: Cloud, write_spec: Any, stand_in: Any, tmp_path: Path
) -> None:
    fill(cloud, 5)
    spec = write_spec(
        cloud.uri("media/**/*.png"), enrichments=ASKED, policy=QUICK, catalog=cloud.uri("catalog"), store=cloud.settings
    )
    report = enrich(read_spec(spec))
    assert report.published == 10
    catalog = Catalog(uri=cloud.uri("catalog"), store=cloud.store())
    assert catalog.scan("enrichments").collect().height == 10
    # Nothing to do, one that was replaced, and one that is gone.
    stand_in.reset()
    assert enrich(read_spec(spec)).published == 0 and not stand_in.asked
    cloud.put("media/001.png", flat((9, 9, 9)))
    cloud.delete("media/002.png")
    enrich(read_spec(write_spec(
        cloud.uri("media/**/*.png"), enrichments=ASKED, policy=QUICK | {"prune": True},
        catalog=cloud.uri("catalog"), store=cloud.settings,
    )))  # fmt: skip
    assert {uri for uri, _ in stand_in.asked} == {cloud.uri("media/001.png")}
    assert {uri for uri, _ in published(catalog)} == {cloud.uri(f"media/{k:03d}.png") for k in (0, 1, 3, 4)}
    # A list of URIs in the store, and a query.
    cloud.put("lists/new.jsonl", json.dumps({"uri": cloud.put("media/new.png", flat((1, 2, 3)))}).encode())
    stand_in.reset()
    enrich(read_spec(write_spec(
        cloud.uri("media/"), enrichments=ASKED, policy=QUICK, catalog=cloud.uri("catalog"), store=cloud.settings,
        listing=cloud.uri("lists/new.jsonl"),
    )))  # fmt: skip
    assert {uri for uri, _ in stand_in.asked} == {cloud.uri("media/new.png")}
    told = CliRunner().invoke(
        app, ["catalog", "query", str(spec), "SELECT count(*) AS objects FROM catalog", "--format", "csv"]
    )
    assert told.exit_code == 0 and "5" in told.output
    looked = CliRunner().invoke(app, ["doctor", str(spec)])
    assert "can be listed" in looked.output or "names 1 objects" in looked.output


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)  # two writers of Google's are tried at the catalog
def test_a_run_that_is_killed_and_two_at_once_end_in_the_rows_of_one(
    cloud: Cloud, write_spec: Any, stand_in: Any, tmp_path: Path
) -> None:
    fill(cloud, 16)
    place = cloud.uri("media/*")
    spec = write_spec(place, enrichments=ASKED, policy=QUICK, catalog=cloud.uri("both"), store=cloud.settings)
    catalog = Catalog(uri=cloud.uri("both"), store=cloud.store())
    killed = start(spec, tmp_path / "killed", 0.01)
    patience = time.monotonic() + 60
    while killed.is_alive() and len(asked(tmp_path / "killed")) < 6 and time.monotonic() < patience:
        time.sleep(0.01)
    os.killpg(killed.pid or 0, signal.SIGKILL)
    killed.join()
    before = published(catalog)
    (tmp_path / "meeting").mkdir()  # neither answers before both have planned, so that each plans all that is left
    logs = [tmp_path / f"log{k}" for k in range(2)]
    runs = [start(spec, log, 0.005, STAND_IN_MEETS=str(tmp_path / "meeting")) for log in logs]
    for run in runs:
        run.join(240)
    assert [run.exitcode for run in runs] == [0, 0]
    for log in logs:
        assert set(asked(log)).isdisjoint(before) and len(asked(log)) == 32 - len(before)
    one = write_spec(place, enrichments=ASKED, policy=QUICK, catalog=str(tmp_path / "one"), store=cloud.settings)
    enrich(read_spec(one))
    assert content(catalog).equals(content(Catalog(uri=read_spec(one).catalog)))
    assert catalog.scan("quarantine").collect().height == 2
