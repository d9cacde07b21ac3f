"""What a worker makes of runs that ended without a state."""

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling, Running

from infra.worker import MOST_ATTEMPTS, ModelWorker


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
