"""The day by which a price counts."""

from __future__ import annotations

from datetime import UTC, date, datetime


def today() -> date:
    """The day it is now, in UTC."""
    return datetime.now(UTC).date()
