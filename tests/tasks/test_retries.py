"""Which tasks that failed Prefect tries again: those that may pass by themselves."""

import errno

import pytest
from prefect.states import Failed

from sightflow.schemas.failure import ModelError, SpecError, StoreError, StoreRefusal
from sightflow.tasks.discover import discover
from sightflow.tasks.fetch import fetch
from sightflow.tasks.plan import plan
from sightflow.tasks.publish import publish
from sightflow.tasks.report import close_manifest, prune, report
from sightflow.tasks.retries import may_pass, retried_task


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (StoreError("the store does not answer"), True),
        (StoreRefusal("the keys are refused"), False),
        (SpecError("a typing error"), False),
        (ModelError("no credit"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), False),
        (ConnectionError("reset"), True),
        (ValueError("a defect, perhaps of something that was away"), True),
    ],
)
def test_what_may_pass_by_itself(error: Exception, passes: bool) -> None:
    assert may_pass(None, None, Failed(data=error)) is passes


@pytest.mark.parametrize("task", [discover, plan, fetch, publish, prune, report, close_manifest], ids=lambda t: t.name)
def test_every_task_that_is_tried_again_asks_it(task) -> None:
    assert task.retries and task.retry_condition_fn is may_pass


@pytest.mark.parametrize(
    ("error", "tries"), [(StoreError("the store does not answer"), 3), (StoreRefusal("the keys are refused"), 1)]
)
def test_without_prefect_they_are_tried_again_alike(
    error: Exception, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, tried = [], []
    monkeypatch.setattr("sightflow.tasks.retries.time.sleep", waited.append)

    @retried_task()
    def ask() -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        ask.without_prefect()
    assert len(tried) == tries and waited == [2, 4][: tries - 1]
    assert list(ask.retry_delay_seconds) == [2, 4], "as Prefect waits"
