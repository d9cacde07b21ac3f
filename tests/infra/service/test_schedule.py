"""A schedule is understood, or refused with what is wrong, before anything is started; its time zone is said."""

from datetime import timedelta

import pytest

from sightflow.infra.service.schedule import Schedule
from sightflow.schemas.failure import SpecError


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cron": "99 2 * * *"}, "is not understood: Invalid cron string"),
        ({"cron": ""}, "is not understood"),
        ({"cron": "at two"}, "is not understood"),
        ({"cron": "0 0 30 2 *"}, "never comes due"),
        ({"cron": "0 2 * * *", "timezone": "Mars/Base"}, "Invalid timezone"),
        ({"cron": "0 2 * * *", "timezone": ""}, "--timezone is empty"),
        ({"cron": "0 2 * * *", "interval": 5.0}, "either --cron or --interval"),
        ({"timezone": "Europe/Berlin"}, "give --cron too"),
        ({"interval": 5.0, "timezone": "Europe/Berlin"}, "give --cron too"),
        ({"interval": 0.5}, "from 1 second to 366 days"),
        ({"interval": float("nan")}, "from 1 second to 366 days"),
        ({"interval": float("inf")}, "from 1 second to 366 days"),
        ({"interval": 1e12}, "from 1 second to 366 days"),
    ],
)
def test_what_is_no_schedule_is_refused(given: dict[str, str | float], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        Schedule(**given)  # type: ignore[arg-type]


def test_cron_is_meant_in_utc_or_in_the_time_zone_that_is_named() -> None:
    plain, berlin = Schedule(cron="0 2 * * *"), Schedule(cron="0 2 * * *", timezone="Europe/Berlin")
    starts = [schedule.next_start() for schedule in (plain, berlin)]
    assert [(start.hour, str(start.tzinfo)) for start in starts if start] == [(2, "UTC"), (2, "Europe/Berlin")]
    assert [schedule.settings["schedule"].timezone for schedule in (plain, berlin)] == ["UTC", "Europe/Berlin"]
    assert "UTC; --timezone names another" in plain.words and "(Europe/Berlin), next at " in berlin.words


def test_an_interval_and_no_schedule_at_all() -> None:
    assert Schedule(interval=90.0).settings == {"interval": timedelta(seconds=90)}
    assert Schedule(interval=90.0).words == "every 90 s"
    assert Schedule().settings == {"schedules": []} and Schedule().words == "when started by hand"
