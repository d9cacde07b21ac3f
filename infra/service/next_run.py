"""When a deployment of a catalog runs next, as a configured Prefect server has it."""

from __future__ import annotations

from datetime import datetime

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

_MOST_DEPLOYMENTS = 200  # what a server gives at once
_FLOW = "enrich"


def next_run_of(catalog: str) -> datetime | None:
    """The next scheduled start of a run for this catalog; None if none is scheduled, or the server does not answer."""
    try:
        return _next_run_of(catalog)
    except Exception:  # a price is worth showing without it
        return None


def _next_run_of(catalog: str) -> datetime | None:
    with get_client(sync_client=True) as client:
        deployments = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[_FLOW])), limit=_MOST_DEPLOYMENTS
        )
        own = [each.id for each in deployments if (each.parameters.get("spec") or {}).get("catalog") == catalog]
        if not own:
            return None
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=own)),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
            ),
            sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
            limit=1,
        )
        return runs[0].next_scheduled_start_time if runs else None
