"""maintain: look after the tables of the catalog when they are due: compaction, checkpoint, vacuum."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from sightflow.blocks.catalog import maintenance
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import StoreError
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.report import MaintenanceResult


@task(cache_policy=NO_CACHE, persist_result=False)
def maintain(catalog: Catalog, commits: int, policy: Policy) -> list[MaintenanceResult]:
    """Look after the tables that are due; return what was done. A run that made no commit looks after nothing.

    A storage that fails here costs the run nothing: what it has computed is published all the same.
    """
    if not commits:
        return []
    try:
        return maintenance.maintain(catalog, policy.upkeep)
    except StoreError as error:
        get_run_logger().warning("the catalog was not looked after: %s", error)
        return []
