"""What `import sightflow` offers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from prefect import flow
from prefect.context import refresh_global_settings_context
from prefect.settings import get_current_settings

import sightflow
import sightflow.tasks.discover as discover_module
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.failure import SpecError
from sightflow.schemas.run.report import QuarantineExceeded
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.run.timing import StartStep
from tests.blocks.catalog.test_catalog import rows
from tests.e2e.test_incremental import flat


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    Catalog.at(tmp_path / "catalog").publish(rows(range(3)))
    return tmp_path / "catalog"


def test_it_is_small_and_quick_to_import() -> None:
    assert set(sightflow.__all__) == {"__version__", "enrich", "plan", "read", "read_spec"}
    assert all(getattr(sightflow, name).__doc__ for name in sightflow.__all__)
    program = "import sys, sightflow; print(*({'prefect', 'polars', 'torch', 'duckdb', 'pandera'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_rows_come_as_polars_as_arrow_and_in_duckdb(catalog: Path) -> None:
    frame = sightflow.read(catalog)
    assert isinstance(frame, pl.DataFrame) and frame.height == 3
    table = sightflow.read(str(catalog), output="arrow")
    assert isinstance(table, pa.Table) and table.num_rows == 3
    relation = sightflow.read(catalog, output="duckdb")
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.aggregate("count(*)").fetchall() == [(3,)]


def test_a_version_and_another_table_can_be_read(catalog: Path) -> None:
    Catalog.at(catalog).publish(rows(range(3, 5)))
    assert sightflow.read(catalog).height == 5
    assert sightflow.read(catalog, version=1).height == 3
    assert sightflow.read(catalog, "quarantine").height == 0
    assert "cause" in sightflow.read(catalog, "quarantine", output="arrow").column_names


def test_one_row_an_object_comes_from_the_view(catalog: Path) -> None:
    Catalog.at(catalog).publish(rows(range(2), text="yes", enrichment="indoors"))
    frame = sightflow.read(catalog, "catalog")
    assert isinstance(frame, pl.DataFrame) and frame.columns[:3] == ["uri", "caption", "indoors"]
    assert frame.sort("uri")["indoors"].to_list() == ["yes", "yes", None]
    table = sightflow.read(catalog, "catalog", output="arrow")
    assert isinstance(table, pa.Table) and table.num_rows == 3
    assert sightflow.read(catalog, "catalog", output="duckdb").filter("indoors = 'yes'").shape[0] == 2
    assert sightflow.read(catalog, "catalog", version=1).columns[:3] == ["uri", "caption", "media_kind"]
    assert sightflow.read(catalog / "none", "catalog").is_empty()


def test_a_catalog_that_is_not_there_has_no_rows_and_an_odd_one_is_refused(tmp_path: Path) -> None:
    assert sightflow.read(tmp_path / "none").is_empty()
    with pytest.raises(ValueError, match="has the scheme 'ftp'"):
        sightflow.read("ftp://host/catalog")


@pytest.mark.usefixtures("prefect_server", "stand_in")
def test_a_spec_is_planned_run_and_read(tmp_path: Path, write_spec: Any) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(3):
        (media / f"{k}.png").write_bytes(flat((k, 20, 30)))
    path = write_spec(f"{media}/*", models={})
    spec = sightflow.read_spec(path)
    assert sightflow.plan(path).to_compute == sightflow.plan(spec).to_compute == 3
    assert sightflow.plan(spec, Selection(limit=1)).to_compute == 1
    assert sightflow.enrich(path, Selection(limit=1)).published == 1

    @flow
    def mine() -> int:
        return sightflow.enrich(spec).published

    assert mine() == 2
    assert sightflow.plan(spec).to_compute == 0
    assert sightflow.read(path)["enrichment"].unique().to_list() == ["caption"]
    assert sightflow.read(spec, "runs").height == 2


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prefect is configured with no server within, also where other tests of this process share one."""
    with monkeypatch.context() as within:
        within.delenv("PREFECT_API_URL", raising=False)
        within.delenv("PREFECT_API_AUTH_STRING", raising=False)
        refresh_global_settings_context()
        yield
    refresh_global_settings_context()


@pytest.mark.e2e
@pytest.mark.usefixtures("no_server", "stand_in")
def test_a_run_that_fails_leaves_the_process_ready_for_the_next(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on a server of its own: what the first one's was configured with is gone with it. Each is planned once."""
    broken, whole = tmp_path / "broken.png", tmp_path / "whole.png"
    broken.write_bytes(b"no picture")
    path = write_spec(str(broken), models={}, policy={"max_quarantine_ratio": 0.0})
    with pytest.raises(QuarantineExceeded):
        sightflow.enrich(path)
    whole.write_bytes(flat((1, 2, 3)))
    path = write_spec(str(whole), models={})
    listed, discovered = [], discover_module._discovered
    monkeypatch.setattr(discover_module, "_discovered", lambda *asked: listed.append(asked) or discovered(*asked))
    report = sightflow.enrich(path)
    assert report.published == 1 and len(listed) == 1
    assert set(report.start.steps) == set(StartStep) and report.start.until_first_answers
    assert get_current_settings().api.url is None


def test_a_wrong_spec_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "source: s3://bucket/**\ncatalog: s3://bucket/catalog\nenrichments: [{capability: fly}]\n"
    )
    with pytest.raises(SpecError, match=r"spec\.yaml:3: .*'fly' is not a capability"):
        sightflow.plan(tmp_path / "spec.yaml")
