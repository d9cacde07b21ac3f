"""publish: commit validated rows to the catalog; what is committed is never computed again."""

from __future__ import annotations

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.tasks.retries import may_pass


@task(
    task_run_name="publish-{rows.height}-rows",
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def publish(writer: RunWriter, rows: pl.DataFrame, failed: pl.DataFrame, replaced: pl.DataFrame) -> int:
    """Commit one group as `RunWriter.commit` does; a group that is committed again after a crash changes nothing."""
    return writer.commit(rows, failed, replaced)
