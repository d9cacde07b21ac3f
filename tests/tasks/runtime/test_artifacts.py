"""What is shown in Prefect is for people to look at; it may cost a run nothing."""

from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES

from sightflow.tasks.runtime.artifacts.best_effort import _few_retries


def test_what_is_only_shown_is_tried_twice_and_not_for_a_minute() -> None:
    retries, address = PREFECT_CLIENT_MAX_RETRIES.value(), PREFECT_API_URL.value()
    assert retries > 1
    with _few_retries():
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 1
        assert PREFECT_API_URL.value() == address
    assert PREFECT_CLIENT_MAX_RETRIES.value() == retries
