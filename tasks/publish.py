"""publish: commit validated rows to the catalog; what is committed is never computed again."""

from __future__ import annotations

import polars as pl

from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.tasks.retries import retried_task


@retried_task(task_run_name="publish-{rows.height}-rows", retries=3)
def publish(writer: RunWriter, rows: pl.DataFrame, failed: pl.DataFrame, replaced: pl.DataFrame) -> int:
    """Commit one group as `RunWriter.commit` does; a group that is committed again after a crash changes nothing."""
    return writer.commit(rows, failed, replaced)
