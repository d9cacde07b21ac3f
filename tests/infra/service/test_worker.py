"""What a worker makes of runs that ended without a state."""

import threading
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling, Running

from sightflow.infra.service.worker import MOST_ATTEMPTS, ModelWorker
from sightflow.schemas.run.report import RunReport


@pytest.fixture
def worker() -> ModelWorker:
    return ModelWorker("pool")


def test_a_run_is_begun_again_but_not_for_ever(worker: ModelWorker) -> None:
    for attempt in range(1, MOST_ATTEMPTS + 1):
        run = FlowRun(flow_id=uuid4(), state=Running(), run_count=attempt)
        state = worker._again(run, "its worker 'a' is gone")
        begun = StateType.SCHEDULED if attempt < MOST_ATTEMPTS else StateType.CRASHED
        assert state.type is begun and "its worker 'a' is gone" in (state.message or "")


def test_a_run_that_was_to_be_cancelled_is(worker: ModelWorker) -> None:
    run = FlowRun(flow_id=uuid4(), state=Cancelling(), run_count=1)
    assert worker._again(run, "its worker is gone").type is StateType.CANCELLED


def test_a_flow_that_cannot_be_loaded_is_a_crash_that_says_so_and_is_not_tried_for_ever(
    worker: ModelWorker, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def nowhere(flow_run: FlowRun) -> None:
        raise ModuleNotFoundError("No module named 'elsewhere'")

    monkeypatch.setattr("sightflow.infra.service.worker.load_flow_from_flow_run", nowhere)
    state = anyio.run(worker._attempt, FlowRun(flow_id=uuid4()), threading.Event())
    assert state is not None and state.type is StateType.CRASHED
    assert "cannot be loaded here: ModuleNotFoundError: No module named 'elsewhere'" in (state.message or "")


@flow
def done() -> RunReport:
    counts = {"objects": 9, "planned": 3, "published": 2, "unchanged": 6, "orphaned": 0, "pruned": 0}
    now = datetime.now(UTC)
    return RunReport(run_id="r", catalog="c", started_at=now, finished_at=now, causes={"decode": 1}, **counts)  # type: ignore[arg-type]


@flow
def broken() -> None:
    raise ValueError("what went wrong\nand more")


@pytest.mark.parametrize(
    ("ran", "says"),
    [
        (done, "Completed: 2 published, 1 quarantined, 6 unchanged, 0 pruned, in "),
        (broken, "Failed: what went wrong, in "),
    ],
)
def test_a_worker_says_a_line_of_each_run(prefect_server: Any, ran: Any, says: str) -> None:
    said: list[str] = []
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(ran, name="nightly")
    ModelWorker("pool", said.append)._outcome(ran, run, threading.Event())
    assert len(said) == 1 and said[0].startswith(f"nightly: {says}") and "\n" not in said[0]
