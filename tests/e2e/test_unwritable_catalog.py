"""A catalog that cannot be written is told before anything is asked of a model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.flows.enrich import enrich
from sightflow.infra.cli.doctor import _of_spec
from sightflow.infra.cli.plan import plan
from sightflow.schemas.failure import StoreRefusal
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_incremental import flat
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy

pytestmark = pytest.mark.usefixtures("prefect_server")
DENIED = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


def read_only(http: Any, times: int) -> Refuse | None:
    return Refuse(403, DENIED) if http.command in ("PUT", "POST", "DELETE") else None


@pytest.fixture
def spec(bucket: Any, write_spec: Any, tmp_path: Path) -> Iterator[Path]:
    """Images in a folder, and a catalog in a bucket that may be read and not written."""
    (tmp_path / "media").mkdir()
    for k in range(19):
        (tmp_path / "media" / f"{k}.png").write_bytes(flat((k, 0, 0)))
    with S3Proxy(bucket.endpoint, read_only) as proxy:
        catalog = f"s3://{bucket.name}/catalog"
        yield write_spec(
            f"{tmp_path}/media/*", catalog=catalog, models={}, store={"endpoint_url": proxy.url, "region": "us-east-1"}
        )


def test_a_run_stops_before_it_asks_anything_and_a_plan_and_the_doctor_tell(
    spec: Path, stand_in: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StoreRefusal, match=r"refuses to let us write .*AccessDenied"):
        enrich(read_spec(spec))
    assert stand_in.asked.total() == 0
    plan(spec)
    planned = capsys.readouterr().out
    assert "19 objects" in planned and "a run would stop at once: " in planned and "AccessDenied" in planned
    plan(spec, as_json=True)
    assert "AccessDenied" in json.loads(capsys.readouterr().out)["catalog_problem"]
    assert [state for what, state, *_ in _of_spec(spec) if what.startswith("catalog")] == ["missing"]


def test_who_has_nothing_to_compute_needs_no_right_to_write(bucket: Any, spec: Path, stand_in: Any) -> None:
    through_the_proxy = spec.read_text()
    proxy = read_spec(spec).store.endpoint_url
    spec.write_text(through_the_proxy.replace(str(proxy), bucket.endpoint))
    assert enrich(read_spec(spec)).published == 19
    spec.write_text(through_the_proxy)
    report = enrich(read_spec(spec))
    assert (report.published, report.commits) == (0, 0)


def test_a_disk_that_fills_up_in_a_run_stops_it_at_once(
    spec: Path, stand_in: Any, tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second commit meets it: nothing waits to try it again, and no shard is begun after it."""
    path = write_spec(f"{tmp_path}/media/*", models={}, policy={"shard_size": 1, "shards_ahead": 1, "commit_rows": 1})
    works, commits = Catalog.publish, []

    def publish(catalog: Catalog, rows: Any) -> Any:
        commits.append(rows.height)
        if len(commits) > 1:
            raise StoreRefusal("the catalog cannot be written: No space left on device")
        return works(catalog, rows)

    monkeypatch.setattr(Catalog, "publish", publish)
    with pytest.raises(StoreRefusal, match="No space left"):
        enrich(read_spec(path))
    assert stand_in.asked.total() < 19
    assert len(commits) <= 3, "of the shards that were in flight, each once"
