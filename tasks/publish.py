"""publish: commit validated rows to the catalog; what is committed is never computed again."""

from __future__ import annotations

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.tasks.retries import may_pass


@task(
    task_run_name="publish-{rows.height}-rows",
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def publish(catalog: Catalog, rows: pl.DataFrame, failed: pl.DataFrame, quarantined_keys: pl.DataFrame) -> int:
    """Commit one group: first the rows, then the failures, then take out of the quarantine what the rows have settled.

    `quarantined_keys`: uri, enrichment; what stood in the quarantine when the run began.

    Each step is a merge by key, so running it again after a crash anywhere changes nothing. Returns how many
    commits were made. Raises StoreError if the storage fails for good.
    """
    commits = [catalog.publish(rows), catalog.quarantine(failed)]
    settled = quarantined_keys.join(rows.select("uri", "enrichment"), on=["uri", "enrichment"], how="semi")
    resolved = catalog.resolve(settled)
    return sum(commit.version is not None for commit in commits) + bool(resolved)
