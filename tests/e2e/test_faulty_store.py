"""An S3 endpoint that is busy, slow, or cuts bodies short: what passes by itself is tried again, the rest is told."""

from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from PIL import Image

from sightflow.blocks.store.object_store import ObjectStore
from sightflow.flows.enrich import enrich
from sightflow.schemas.spec import StoreSettings
from sightflow.schemas.spec_reader import read_spec
from tests.e2e.test_ugly_inputs import encoded, outcome
from tests.loopback.server import CutBody, Stall
from tests.loopback.stores.s3_proxy import Refuse, S3Proxy, Spoiled

pytestmark = pytest.mark.usefixtures("prefect_server")
BUSY = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
FAULTS: dict[str, Refuse | CutBody | Stall] = {"busy": Refuse(503, BUSY), "cut": CutBody(), "stalled": Stall()}


def by_name(http: BaseHTTPRequestHandler, times: int) -> Spoiled:
    """Spoil the first `n` answers for `busy-n.png` and the like, or always."""
    kind, _, limit = http.path.partition("?")[0].rpartition("/")[2].removesuffix(".png").partition("-")
    return FAULTS[kind] if kind in FAULTS and (limit == "always" or times <= int(limit)) else None


def test_what_passes_is_tried_again_and_what_does_not_is_told(
    bucket: Any, write_spec: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["good", "busy-2", "cut-2", "stalled-1", "busy-always", "cut-always"]
    for name in names:
        bucket.put(f"in/{name}.png", encoded(Image.effect_noise((40, 40), 50).convert("RGB")))
    # The same store, but one that does not wait a minute for a stalled body.
    monkeypatch.setattr("sightflow.tasks.fetch._store", _impatient)
    with S3Proxy(bucket.endpoint, by_name) as proxy:
        spec = write_spec(f"s3://{bucket.name}/in/**", store={"endpoint_url": proxy.url})
        report = enrich(read_spec(spec))
        seen = dict(proxy.seen)
    rows, failed = outcome(spec, f"s3://{bucket.name}/in/")
    assert {key for key, _ in rows} == {"good.png", "busy-2.png", "cut-2.png", "stalled-1.png"}
    assert failed == {"busy-always.png": {"fetch"}, "cut-always.png": {"fetch"}}
    of_its_picture = 1  # what was published is looked at once more, for Prefect
    assert seen["busy-2.png"] == seen["cut-2.png"] == 3 + of_its_picture and seen["busy-always.png"] == 4
    assert report.published == 4
    # Both causes may pass by themselves: the next run tries again.
    assert (
        enrich(read_spec(write_spec(f"s3://{bucket.name}/in/**", store={"endpoint_url": bucket.endpoint}))).published
        == 2
    )


_STORES: dict[StoreSettings, ObjectStore] = {}


def _impatient(settings: StoreSettings) -> ObjectStore:
    if settings not in _STORES:
        _STORES[settings] = ObjectStore(endpoint_url=settings.endpoint_url, timeout=2.0, attempts=4)
    return _STORES[settings]
