"""What `sightflow deploy` leaves on a Prefect server, and what a run shows there."""

import json
import os
import queue
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from sightflow.flows.enrich import enrich
from sightflow.infra.service.deployments import deploy
from sightflow.infra.service.schedule import Schedule
from sightflow.schemas.failure import SpecError
from sightflow.schemas.run.report import QuarantineExceeded
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.create_artifacts import asset_key
from tests.e2e.service import ROOT, service, until
from tests.e2e.test_incremental import flat
from tests.loopback.http_server import OnLoopback, QuietHandler


def found(server: Any, path: str, **asked: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{server.api_url}/{path}/filter", json=asked, timeout=30, auth=server.credentials)
    return list(json.loads(answer.raise_for_status().text))


def named(server: Any, name: str) -> list[dict[str, Any]]:
    return found(server, "deployments", deployments={"name": {"like_": name}})


def automations(server: Any, name: str) -> list[dict[str, Any]]:
    return [each for each in found(server, "automations") if each["name"].startswith(name)]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for k in range(3):
        (folder / f"{k}.png").write_bytes(flat((k, 0, 0)))
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_deployed_twice_it_stands_once(media: Path, write_spec: Any, stand_in: Any, prefect_server: Any) -> None:
    spec = read_spec(write_spec(f"{media}/*"))
    for _ in range(2):
        made = deploy("twice", spec, Schedule(cron="0 2 * * *"), on_upload=True)
    assert [each.name for each in made] == ["enrich/twice", "enrich/twice-uploads"]
    whole, uploads = sorted(named(prefect_server, "twice"), key=lambda each: each["name"])
    assert [each["schedule"]["cron"] for each in whole["schedules"]] == ["0 2 * * *"]
    assert whole["global_concurrency_limit"]["limit"] == 1 and whole["work_pool_name"] == "sightflow"
    assert uploads["schedules"] == [] and uploads["parameters"]["spec"] == spec.model_dump(mode="json")
    assert len(automations(prefect_server, "twice")) == 1


def test_deployed_again_without_a_schedule_or_uploads_it_has_none(
    media: Path, write_spec: Any, stand_in: Any, prefect_server: Any
) -> None:
    spec = read_spec(write_spec(f"{media}/*"))
    deploy("once", spec, Schedule(interval=60), on_upload=True)
    deploy("once", spec)
    assert [each["schedules"] for each in named(prefect_server, "once")] == [[]]
    assert automations(prefect_server, "once") == []


def test_a_notification_block_must_be_there(media: Path, write_spec: Any, stand_in: Any, prefect_server: Any) -> None:
    with pytest.raises(SpecError, match="no saved block 'slack-webhook/nobody'"):
        deploy("told", read_spec(write_spec(f"{media}/*")), notify="slack-webhook/nobody")
    assert named(prefect_server, "told") == []


def test_a_run_shows_its_report_its_causes_its_progress_and_the_lineage(
    media: Path, write_spec: Any, stand_in: Any, prefect_server: Any
) -> None:
    catalog = media.parent / "a ~b~ <i>"
    done = enrich(read_spec(write_spec(f"{media}/*", catalog=str(catalog))))
    artifacts = found(prefect_server, "artifacts", artifacts={"flow_run_id": {"any_": [done.run_id]}})
    # An artifact of a task run knows its flow run too.
    shown = {each["key"].rpartition("-")[2]: each for each in artifacts}
    assert set(shown) == {"progress", "report", "examples", "causes", "failed", "version"}
    assert json.loads(shown["causes"]["data"]) == [{"cause": "unreadable", "items": 1}]
    assert shown["progress"]["data"] == 100.0
    assert "**3 published, 1 quarantined, 0 unchanged, 0 pruned** in" in shown["report"]["data"]
    assert shown["examples"]["data"].count("](data:image/jpeg;base64,") == 3  # a picture of each
    (failed,) = json.loads(shown["failed"]["data"])
    assert (failed["cause"], failed["stage"]) == ("unreadable", "decode") and failed["uri"].startswith("file://")
    assert r"a \~b\~ &lt;i&gt;" in shown["report"]["data"]
    assert f"{done.catalog}/enrichments/_delta_log/" in shown["version"]["data"]

    def lineage() -> dict[str, Any] | None:
        event = {"name": ["prefect.asset.materialization.succeeded"]}
        asked = {"filter": {"event": event, "any_resource": {"id": [asset_key(done.catalog)]}}}
        events = httpx.post(
            f"{prefect_server.api_url}/events/filter", json=asked, timeout=30, auth=prefect_server.credentials
        ).json()["events"]
        return events[0] if events else None

    until(lineage, 30, "the lineage is told")
    event = lineage()
    assert event is not None
    assert event["payload"] == {"version": done.catalog_version, "published": 3, "quarantined": 1}
    upstream = [each["prefect.resource.id"] for each in event["related"] if each["prefect.resource.role"] == "asset"]
    assert upstream == [f"file://{media}"]


def test_the_name_of_a_run_says_what_and_when(media: Path, write_spec: Any, stand_in: Any, prefect_server: Any) -> None:
    done = enrich(read_spec(write_spec(f"{media}/*")), Selection(prefix="/0", limit=2))
    (run,) = found(prefect_server, "flow_runs", flow_runs={"id": {"any_": [done.run_id]}})
    assert run["name"].startswith("catalog, below /0 at most 2, 20")


def test_more_quarantine_than_allowed_fails_the_run(
    media: Path, write_spec: Any, stand_in: Any, prefect_server: Any
) -> None:
    with pytest.raises(QuarantineExceeded) as caught:
        enrich(read_spec(write_spec(f"{media}/*", policy={"max_quarantine_ratio": 0.1})))
    (run,) = found(prefect_server, "flow_runs", flow_runs={"id": {"any_": [caught.value.report.run_id]}})
    assert run["state_type"] == "FAILED" and "1 of 4 items failed" in run["state"]["message"]


class Pager(OnLoopback):
    """Takes notifications."""

    def __init__(self) -> None:
        super().__init__()
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        told = self.told

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler


def test_a_failed_run_is_told_to_who_wants_to_know(
    tmp_path: Path, media: Path, write_spec: Any, prefect_server: Any
) -> None:
    spec = write_spec(f"{media}/*", policy={"max_quarantine_ratio": 0.1})
    with Pager() as pager, service(tmp_path, prefect_server) as parts:
        body = {"title": "{{subject}}", "text": "{{body}}"}
        block = CustomWebhookNotificationBlock(name="pager", url=pager.url, json_data=body, allow_private_urls=True)
        block.save("pager", overwrite=True)
        parts.run("deploy", str(spec), "--name", "paged", "--pool", "paged", "--notify", "custom-webhook/pager")
        parts.start("worker", "worker", "--poll", "1", "--pool", "paged")
        (deployment,) = named(prefect_server, "paged")
        httpx.post(
            f"{prefect_server.api_url}/deployments/{deployment['id']}/create_flow_run",
            json={},
            auth=prefect_server.credentials,
        ).raise_for_status()
        notice = pager.told.get(timeout=60)
        assert notice["title"].startswith("Sightflow: catalog, everything") and notice["title"].endswith("Failed")
        assert "1 of 4 items failed, more than policy.max_quarantine_ratio" in notice["text"]


def test_prefect_s_own_deploy_makes_the_same_of_prefect_yaml(
    tmp_path: Path, write_spec: Any, stand_in: Any, prefect_server: Any
) -> None:
    parameters = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]["parameters"]
    spec = EnrichmentSpec.model_validate(parameters["spec"])
    deploy("media", spec, Schedule(cron="0 2 * * *"), on_upload=True)
    ours = [(comparable(each), trigger_of(prefect_server, each)) for each in deployed(prefect_server, "media")]
    command = [Path(sys.executable).parent / "prefect", "--no-prompt", "deploy", "--all"]
    environment = {**os.environ, **prefect_server.client_environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = [(comparable(each), trigger_of(prefect_server, each)) for each in deployed(prefect_server, "media")]
    assert len(ours) == 2 and theirs == ours


def deployed(server: Any, name: str) -> list[dict[str, Any]]:
    return sorted(named(server, name), key=lambda each: str(each["name"]))


def comparable(deployment: dict[str, Any]) -> dict[str, Any]:
    """What of a deployment decides when, where and what it runs."""
    spec = EnrichmentSpec.model_validate(deployment["parameters"]["spec"])
    crons = [(each["schedule"]["cron"], each["active"]) for each in deployment["schedules"]]
    limit = (deployment["global_concurrency_limit"] or {}).get("limit")
    options = (deployment["concurrency_options"] or {}).get("collision_strategy")
    alike = ("name", "entrypoint", "work_pool_name", "tags")
    return {key: deployment[key] for key in alike} | {"spec": spec, "crons": crons, "limit": limit, "options": options}


def trigger_of(server: Any, deployment: dict[str, Any]) -> Any:
    mine = [each for each in found(server, "automations") if deployment["id"] in json.dumps(each["actions"])]
    return [(each["trigger"]["expect"], each["trigger"]["match"], each["actions"][0]["parameters"]) for each in mine]
