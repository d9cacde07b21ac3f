"""A row goes with proof at that moment: the store says that there is no such object, and the row is the planned one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.schemas.failure import StoreError
from sightflow.schemas.run.plan import RunPlan
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from sightflow.tasks.plan import plan
from sightflow.tasks.report import prune
from sightflow.tasks.runtime.publisher import LISTENER
from tests.blocks.store.test_lookups import FAULTS, PAGE, spoiling
from tests.e2e.test_incremental import flat, rows
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy
from tests.stand_in_model import StandIn

pytestmark = pytest.mark.usefixtures("prefect_server", "stand_in")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = tmp_path / "media"
    media.mkdir()
    for k in range(4):
        (media / f"{k}.png").write_bytes(flat((k * 10, 20, 30)))
    return media


class WhenPlanned:
    """A progress bar that does something once the plan is made."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def planned(self, run_plan: RunPlan) -> None:
        self.act()

    def advanced(self, published: int, quarantined: int) -> None:
        pass


@contextmanager
def meanwhile(act: Any) -> Iterator[None]:
    token = LISTENER.set(WhenPlanned(act))
    try:
        yield
    finally:
        LISTENER.reset(token)


def test_a_file_that_comes_back_while_a_run_works_keeps_its_row(folder: Path, write_spec: Any) -> None:
    path = write_spec(str(folder), policy={"prune": True})
    assert enrich(read_spec(path)).published == 4
    (folder / "1.png").unlink()
    (folder / "2.png").unlink()
    (folder / "new.png").write_bytes(flat((9, 9, 9)))
    with meanwhile(lambda: (folder / "1.png").write_bytes(flat((7, 7, 7)))):
        report = enrich(read_spec(path))
    assert (report.orphaned, report.pruned, report.published) == (2, 1, 1)
    assert {name for name, _ in rows(path)} == {"0.png", "1.png", "3.png", "new.png"}


def test_a_row_that_another_run_has_made_anew_stays(folder: Path, write_spec: Any) -> None:
    """It came back, was seen to by another run, and is gone again: that row is nobody's to take away yet."""
    spec = read_spec(write_spec(str(folder), policy={"prune": True}))
    enrich(spec)
    (folder / "1.png").unlink()
    run_plan = plan.fn(discover.fn(spec), spec)
    (folder / "1.png").write_bytes(flat((7, 7, 7)))
    assert enrich(spec).published == 1
    (folder / "1.png").unlink()
    catalog = Catalog(uri=spec.catalog)
    assert prune.fn(catalog, run_plan, spec).rows == 0 and catalog.scan("enrichments").collect().height == 4
    assert prune.fn(catalog, plan.fn(discover.fn(spec), spec), spec).rows == 1


@pytest.fixture
def spec_of(bucket: Any, write_spec: Any) -> Any:
    """A spec of ten objects of a bucket, all published, of which one is gone and one is not listed any more."""

    def write(endpoint: str, **sections: Any) -> Path:
        policy = {"prune": True, "max_quarantine_ratio": 1.0}
        return write_spec(f"s3://{bucket.name}/in/", store={"endpoint_url": endpoint}, policy=policy, **sections)

    for k in range(10):
        bucket.put(f"in/{k}.png", flat((k, 2, 3)))
    assert enrich(read_spec(write(bucket.endpoint))).published == 10
    return write


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_whose_object_cannot_be_looked_up_stays(bucket: Any, spec_of: Any, fault: str) -> None:
    bucket.delete("in/3.png")
    bucket.delete("in/7.png")
    with S3Proxy(bucket.endpoint, spoiling("in/3.png", FAULTS[fault])) as proxy:
        report = enrich(read_spec(spec_of(proxy.url)))
    assert (report.orphaned, report.pruned) == (2, 1)
    assert [each.places for each in report.skipped] == [(f"s3://{bucket.name}/in/3.png",)]
    assert len(rows(spec_of(bucket.endpoint))) == 9
    assert enrich(read_spec(spec_of(bucket.endpoint))).pruned == 1


def test_a_gateway_s_page_in_the_place_of_the_listing_prunes_nothing(bucket: Any, spec_of: Any) -> None:
    with S3Proxy(bucket.endpoint, lambda http, _: Refuse(200, PAGE) if "list-type" in http.path else None) as proxy:
        spec = read_spec(spec_of(proxy.url))
        with pytest.raises(StoreError, match="did not answer with a listing"):
            discover.fn(spec)
    assert len(rows(spec_of(bucket.endpoint))) == 10


def test_half_a_listing_prunes_nothing_that_is_there(bucket: Any, spec_of: Any) -> None:
    """The listing leaves out what is there, as one does that a cache has kept."""
    keys = "".join(
        f"<Contents><Key>in/{k}.png</Key><Size>1</Size><ETag>&quot;{k}&quot;</ETag></Contents>" for k in range(5)
    )
    body = f"<ListBucketResult><Name>{bucket.name}</Name><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>"
    with S3Proxy(bucket.endpoint, lambda http, _: Refuse(200, body) if "list-type" in http.path else None) as proxy:
        report = enrich(read_spec(spec_of(proxy.url)))
    assert (report.orphaned, report.pruned) == (5, 0)
    assert len(rows(spec_of(bucket.endpoint))) == 10


def test_one_refused_object_of_a_list_is_in_the_quarantine_until_it_can_be_looked_up(
    bucket: Any, spec_of: Any, tmp_path: Path
) -> None:
    root = f"s3://{bucket.name}/in"
    (tmp_path / "uris.txt").write_text(f"{root}/new.png\nno uri\n{root}/3.png\n{root}/gone.png\n")
    bucket.put("in/new.png", flat((7, 7, 7)))
    StandIn.reset()
    with S3Proxy(bucket.endpoint, spoiling("in/3.png", FAULTS["refused"])) as proxy:
        report = enrich(read_spec(spec_of(proxy.url, listing="uris.txt")))
    assert (report.objects, report.published, report.causes) == (1, 1, {"fetch": 1})
    assert report.skipped[0].count == 1 and "record 2" in report.skipped[0].summary
    catalog = Catalog(uri=report.catalog)
    (failed,) = catalog.scan("quarantine").collect().to_dicts()
    assert (failed["uri"], failed["stage"]) == (f"{root}/3.png", "fetch") and "AccessDenied" in failed["message"]
    # Its row is there and up to date: nothing is asked again, and the failure is settled.
    assert enrich(read_spec(spec_of(bucket.endpoint, listing="uris.txt"))).published == 0
    assert catalog.scan("quarantine").collect().is_empty()
    assert sum(StandIn.asked.values()) == 1
