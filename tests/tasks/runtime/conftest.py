"""A real catalog in a folder, and stages that run without Prefect and its retries."""

from pathlib import Path

import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.tasks.maintain import maintain
from sightflow.tasks.publish import publish
from sightflow.tasks.runtime import publisher as publishing


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(uri=f"file://{tmp_path}/catalog")


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The heights of the groups that are committed, by the bare functions of the stages."""
    heights: list[int] = []

    def counted(catalog: Catalog, rows: pl.DataFrame, failed: pl.DataFrame, keys: pl.DataFrame) -> int:
        heights.append(rows.height + failed.height)
        return publish.fn(catalog, rows, failed, keys)

    monkeypatch.setattr(publishing, "publish", counted)
    monkeypatch.setattr(publishing, "maintain", maintain.fn)
    return heights
