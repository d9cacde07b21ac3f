"""When the runs of a deployment start: by cron in a time zone, every so many seconds, or only by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import anyio
from pydantic import ValidationError

from sightflow.schemas.failure import SpecError

LONGEST_INTERVAL = timedelta(days=366)


@dataclass(frozen=True)
class Schedule:
    """At most one of `cron` (five fields, or Prefect's others, in `timezone`, an IANA name; unset, UTC) and `interval`
    (seconds).

    Raises SpecError if it is not of a form that a Prefect server understands.
    """

    cron: str | None = None
    interval: float | None = None
    timezone: str | None = None

    def __post_init__(self) -> None:
        if self.cron is not None and self.interval is not None:
            raise SpecError("give either --cron or --interval")
        if self.timezone is not None and self.cron is None:
            raise SpecError("--timezone says in which time zone --cron is meant; give --cron too")
        if self.timezone is not None and not self.timezone.strip():
            raise SpecError("--timezone is empty; give an IANA name, e.g. Europe/Berlin, or leave it out for UTC")
        if self.interval is not None and not 1 <= self.interval <= LONGEST_INTERVAL.total_seconds():
            raise SpecError(f"--interval is from 1 second to {LONGEST_INTERVAL.days} days; {self.interval:g} is not")
        self.next_start()

    @property
    def settings(self) -> dict[str, Any]:
        """As Prefect's `to_deployment` takes it."""
        from prefect.client.schemas.schedules import CronSchedule

        if self.cron is not None:
            return {"schedule": CronSchedule(cron=self.cron, timezone=self.timezone or "UTC")}
        return {"schedules": []} if self.interval is None else {"interval": timedelta(seconds=self.interval)}

    @property
    def words(self) -> str:
        """As on the screen, e.g. `cron 0 2 * * * (Europe/Berlin), next at 2026-11-28 02:00 CET`."""
        if self.cron is not None:
            following = self.next_start()
            zone = self.timezone or "UTC; --timezone names another"
            return f"cron {self.cron} ({zone}), next at {following:%Y-%m-%d %H:%M %Z}"
        return "when started by hand" if self.interval is None else f"every {self.interval:g} s"

    def next_start(self) -> datetime | None:
        """When cron next comes due, in its time zone; None without cron."""
        if self.cron is None:
            return None
        from prefect.server.schemas.schedules import CronSchedule

        try:
            schedule = CronSchedule(cron=self.cron, timezone=self.timezone or "UTC")
            return anyio.run(schedule.get_dates, 1)[0]
        except ValidationError as error:
            wrong = "; ".join(str(problem["ctx"]["error"]) for problem in error.errors() if "ctx" in problem)
            raise SpecError(f"the schedule is not understood: {wrong or 'see --help'}") from None
        except (ValueError, IndexError):
            raise SpecError(
                f"the schedule never comes due: there is no such day as cron {self.cron!r} asks for"
            ) from None
