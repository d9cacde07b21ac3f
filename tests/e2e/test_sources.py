"""What a source means, from the spec to the objects: a folder is all below it, and nothing found is no success."""

import os
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.upload_manifests import Manifests
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import EmptySource
from sightflow.schemas.run.selection import Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from sightflow.tasks.plan import plan
from tests.e2e.test_command_line import sightflow
from tests.e2e.test_incremental import flat


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("data [v2]/a.png", "data [v2]/b.jpg", "data [v2]/deep/c.png", "data [v2]/deep/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(flat((1, 2, 3)))
    (tmp_path / "link").symlink_to("data [v2]")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("data [v2]", "a.png b.jpg deep/c.png deep/d.txt"),
        ("link", "a.png b.jpg deep/c.png deep/d.txt"),
        ("~/link/deep", "deep/c.png deep/d.txt"),
        ("data [v2]/../link/*.{png,jpg}", "a.png b.jpg"),
        ("data [v2]/{a,deep/{c,d}}.*", "a.png deep/c.png deep/d.txt"),
        (["link/**/*.png", "data [v2]/a.png", "file://{here}/link/deep/../"], "a.png b.jpg deep/c.png deep/d.txt"),
        ("data [v2]/a.png", "a.png"),
    ],
)
def test_a_local_source_finds_each_file_once_in_a_spec_file_and_in_the_flow(
    here: Path, write_spec: Any, source: Any, expected: str
) -> None:
    source = [each.format(here=here) for each in source] if isinstance(source, list) else source
    asked = read_spec(write_spec(source))
    given = EnrichmentSpec(source=source, catalog="catalog", enrichments=asked.enrichments, models=asked.models)
    assert (given.source, given.catalog) == (asked.source, asked.catalog)
    found = sorted(discover.fn(asked).inventory["uri"])
    assert found == [f"file://{here}/data [v2]/{name}" for name in expected.split()]


def test_a_catalog_below_its_source_is_no_part_of_it(here: Path, write_spec: Any) -> None:
    path = write_spec("link", catalog="data [v2]/deep/../catalog/")
    spec = read_spec(path)
    Catalog(uri=spec.catalog).store.write(f"{spec.catalog}/uploads/x.png", b"x")
    assert discover.fn(spec).inventory.height == 4
    with pytest.raises(EmptySource, match="own files"):
        discover.fn(read_spec(write_spec("data [v2]/catalog", catalog="link/catalog")))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "no such file"),
        ("data [v2]/*.gif", r"\*\* in all below"),
        ("data [v3]/*", r"\[\[\]v3\] is that text"),
        (["data [v2]", "nowhere/*"], "nowhere"),
        ("data [v2]/deep/x.png", "lists no object"),
    ],
)
def test_a_source_that_lists_nothing_is_an_error_unless_it_may_be_empty(
    here: Path, write_spec: Any, source: Any, says: str
) -> None:
    with pytest.raises(EmptySource, match=says):
        discover.fn(read_spec(write_spec(source)))
    spec = read_spec(write_spec(source, policy={"allow_empty": True}))
    found = discover.fn(spec)
    assert found.inventory.height == (4 if isinstance(source, list) else 0) and not found.skips.complete


def test_the_command_line_says_so_and_fails(here: Path, write_spec: Any, bucket: Any) -> None:
    bucket.put("in/x.png", flat((1, 2, 3)))
    path = write_spec(f"s3://{bucket.name}/out/", store={"endpoint_url": bucket.endpoint})
    done = sightflow("plan", str(path))
    assert done.returncode == 1 and "lists no object" in done.stderr and "allow_empty" in done.stderr
    # A part of the work may be nothing.
    spec = read_spec(write_spec("data [v2]"))
    assert plan.fn(discover.fn(spec), spec, Selection(prefix="elsewhere")).to_compute == 0


def test_all_that_a_source_lists_may_belong_to_another_one(here: Path, write_spec: Any) -> None:
    assert discover.fn(read_spec(write_spec(["data [v2]", "link/deep/*.png"]))).inventory.height == 4


@pytest.mark.usefixtures("prefect_server")
def test_an_empty_source_fails_the_flow_at_once_and_uploads_that_are_gone_do_not(
    here: Path, write_spec: Any, stand_in: Any
) -> None:
    spec = read_spec(write_spec("nowhere"))
    with pytest.raises(EmptySource):
        enrich(spec)
    manifest = Manifests(Catalog(uri=spec.catalog)).write([f"file://{here}/nowhere/x.png"])
    assert enrich(spec, Selection(manifest=manifest)).objects == 0


@pytest.mark.usefixtures("prefect_server")
def test_what_lies_in_a_folder_that_cannot_be_listed_is_told_and_not_gone(
    here: Path, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = read_spec(write_spec("link/{*,deep/*}.png", policy={"prune": True}))
    assert enrich(spec).published == 2
    scandir = os.scandir

    def refused(path: str) -> Any:
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    (here / "data [v2]/deep/c.png").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refused)
        report = enrich(spec)
    assert (report.objects, report.orphaned, report.pruned) == (1, 0, 0)
    assert "deep" in report.skipped[0].summary
    # The same run could see that it is gone, once it may look.
    assert plan.fn(discover.fn(read_spec(write_spec("link/*.png"))), spec).orphaned.height == 1
