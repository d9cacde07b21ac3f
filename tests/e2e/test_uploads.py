"""What is uploaded comes into the catalog by itself, whatever happens on the way."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.store.object_store import ObjectStore
from sightflow.infra.loopback import free_port
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.burst import burst
from tests.e2e.service import Notifying, Service, service, until
from tests.e2e.test_incremental import flat

CAPTION = [{"capability": "image captioning", "name": "caption"}]


@pytest.fixture
def notifying(s3_endpoint: str, request: pytest.FixtureRequest) -> Notifying:
    return Notifying(s3_endpoint, f"n{abs(hash(request.node.nodeid))}")


def written(write_spec: Any, bucket: Notifying, **sections: Any) -> tuple[Path, Catalog]:
    uri = f"s3://{bucket.name}/catalog"
    store = {"endpoint_url": bucket.endpoint}
    spec = write_spec(f"s3://{bucket.name}/in/**", catalog=uri, store=store, enrichments=CAPTION, **sections)
    return spec, Catalog(uri=uri, store=ObjectStore(endpoint_url=bucket.endpoint))


def held(catalog: Catalog) -> set[str]:
    return set(catalog.scan("enrichments").select("uri").collect()["uri"])


def test_an_upload_comes_into_the_catalog_by_itself_and_is_counted(
    tmp_path: Path, write_spec: Any, notifying: Notifying, prefect_server: Any
) -> None:
    spec, catalog = written(write_spec, notifying)
    with service(tmp_path, prefect_server) as parts:
        parts.run("deploy", str(spec), "--on-upload", "--name", "quick")
        port = free_port()
        parts.start("worker", "worker", "--poll", "1", "--metrics", str(port))
        parts.start("bridge", "bridge", str(spec), "--queue", notifying.queue, "--batch-seconds", "1")
        until(lambda: "taking runs" in parts.log("worker") and "bridging" in parts.log("bridge"), 60, "they start")
        for k in range(3):
            uri = notifying.put(f"in/a +ü#{k}.png", flat((k, 0, 0)))
            until(lambda: uri in held(catalog), 60, uri)
        until(lambda: all(run["state_type"] == "COMPLETED" for run in parts.runs("quick-uploads")), 20, "all complete")
        until(lambda: notifying.waiting() == 0, 20, "the queue is empty")
        counted = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    label = f'catalog="{catalog.uri}"'
    assert f'sightflow_items_total{{{label},enrichment="caption",outcome="published"}} 3.0' in counted
    assert f'sightflow_model_busy_seconds_total{{{label},system="florence-2"}}' in counted
    assert f'sightflow_stage_seconds_total{{{label},stage="fetch"}}' in counted


@pytest.mark.timeout(900)
def test_a_burst_with_everything_killed_in_its_middle_ends_with_one_row_an_object(
    tmp_path: Path, write_spec: Any, notifying: Notifying
) -> None:
    spec, catalog = written(write_spec, notifying)
    done = burst(tmp_path, notifying, spec, catalog, uploads=300)
    assert len(done.rows) == 300 and set(done.rows) == done.uris
    assert done.runs <= 40 and done.lost and done.doubled
    # A kill costs at most what the runs of that moment had in flight.
    assert len(done.asked) <= 300 + 4 * 64


@contextmanager
def slowly(
    tmp_path: Path, write_spec: Any, server: Any, name: str, more: tuple[str, ...] = ()
) -> Iterator[tuple[Service, Catalog, Path, Path]]:
    """A deployment of shards of six in a pool of its own, one at a time, and a run of it that stands in the middle of
    the second, at a gate: the last file, which is to be removed. The other is a list of all that was asked.
    """
    media = tmp_path / "media"
    media.mkdir()
    for k in range(24):
        (media / f"{k:02d}.png").write_bytes(flat((k, 0, 0)))
    policy = {"shard_size": 6, "shards_ahead": 1, "commit_rows": 6}
    spec = write_spec(f"{media}/*", enrichments=CAPTION, policy=policy)
    log, gate = tmp_path / "asked.log", tmp_path / "gate"
    gate.write_text("8")
    with service(tmp_path, server, STAND_IN_GATE=str(gate), STAND_IN_LOG=str(log)) as parts:
        parts.run("deploy", str(spec), "--name", name, "--pool", name, *more)
        parts.start("worker", "worker", "--pool", name, "--poll", "0.5", "--heartbeat", "2")
        parts.trigger(name)
        catalog = Catalog(uri=read_spec(spec).catalog)
        until(lambda: held(catalog) and log.read_text().count("\n") == 12, 90, "the second shard is asked")
        yield parts, catalog, log, gate


def test_a_worker_that_dies_in_the_middle_of_a_shard_costs_that_shard_and_no_person(
    tmp_path: Path, write_spec: Any, prefect_server: Any
) -> None:
    with slowly(tmp_path, write_spec, prefect_server, "dying") as (parts, catalog, log, gate):
        parts.kill("worker")
        kept = held(catalog)
        assert len(kept) == 6
        gate.unlink()
        parts.start("worker", "worker", "--pool", "dying", "--poll", "0.5", "--heartbeat", "2")
        until(lambda: [run["state_type"] for run in parts.runs("dying")] == ["COMPLETED"], 120, "the run completes")
        (run,) = parts.runs("dying")
    assert run["run_count"] == 2
    assert len(held(catalog)) == catalog.scan("enrichments").collect().height == 24
    asked = Counter(log.read_text().splitlines())
    assert all(asked[json.dumps([uri, "caption"])] == 1 for uri in kept), "what was published is not asked again"
    assert sum(asked.values()) <= 24 + 2 * 6


def test_sigterm_finishes_the_shard_in_flight_and_gives_the_rest_back(
    tmp_path: Path, write_spec: Any, prefect_server: Any
) -> None:
    with slowly(tmp_path, write_spec, prefect_server, "leaving") as (parts, catalog, log, gate):
        parts.processes["worker"].send_signal(signal.SIGTERM)
        until(lambda: "asked to stop" in parts.log("worker"), 30, "it hears that")
        gate.unlink()
        assert parts.ended("worker") == 0
        (run,) = parts.runs("leaving")
        assert (run["state_type"], run["state_name"]) == ("SCHEDULED", "AwaitingRetry")
        assert "nothing is left locked" in parts.log("worker")
        asked = log.read_text().splitlines()
        assert len(held(catalog)) == len(asked) < 24, "all that was asked is published"
        parts.start("worker", "worker", "--pool", "leaving", "--poll", "0.5", "--heartbeat", "2")
        until(lambda: [run["state_type"] for run in parts.runs("leaving")] == ["COMPLETED"], 60, "it completes")
    assert len(held(catalog)) == len(log.read_text().splitlines()) == 24, "nothing is asked twice"


def test_a_cancelled_run_stops_after_its_shard_and_the_worker_goes_on(
    tmp_path: Path, write_spec: Any, prefect_server: Any
) -> None:
    with slowly(tmp_path, write_spec, prefect_server, "cancelled") as (parts, catalog, _, gate):
        (run,) = parts.runs("cancelled")
        parts.set_state(run["id"], "CANCELLING")
        until(lambda: "is being cancelled" in parts.log("worker"), 60, "the worker hears that")
        gate.unlink()
        until(lambda: parts.runs("cancelled")[0]["state_type"] == "CANCELLED", 60, "it is cancelled")
        assert 0 < len(held(catalog)) < 24
        parts.trigger("cancelled")
        until(lambda: len(held(catalog)) == 24, 60, "another run does the rest")


@pytest.mark.parametrize(("overlap", "state"), [("wait", "AwaitingConcurrencySlot"), ("skip", "Cancelled")])
def test_a_run_that_comes_due_while_one_goes_on_waits_or_is_left_out(
    tmp_path: Path, write_spec: Any, prefect_server: Any, overlap: str, state: str
) -> None:
    name = f"overlap-{overlap}"
    more = ("--overlap", overlap)
    with slowly(tmp_path, write_spec, prefect_server, name, more) as (parts, _, _, _):
        parts.trigger(name)
        until(lambda: state in [run["state_name"] for run in parts.runs(name)], 30, state)
        (other,) = [run for run in parts.runs(name) if run["state_name"] == state]
        assert overlap == "wait" or "concurrency limit" in other["state"]["message"]
        states = [run["state_name"] for run in parts.runs(name)]
        assert states.count("Running") == 1


def test_serve_runs_uploads_in_one_process_with_a_server_of_its_own_and_leaves_nothing(
    tmp_path: Path, write_spec: Any, notifying: Notifying
) -> None:
    spec, catalog = written(write_spec, notifying)
    with service(tmp_path, None) as parts:
        queue = ["--queue", notifying.queue, "--batch-seconds", "0.5", "--poll", "0.5"]
        process = parts.start("serve", "serve", str(spec), *queue)
        uri = notifying.put("in/1.png", flat((1, 2, 3)))
        until(lambda: uri in held(catalog), 120, "it is in the catalog")
        assert "serving" in parts.log("serve") and "http://127.0.0.1:" in parts.log("serve")
        children = psutil.Process(process.pid).children(recursive=True)
        assert parts.kill("serve", signal.SIGTERM) == 0
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert "Traceback" not in parts.log("serve")
