"""A process that is killed between any two steps of a batch: everything ends once, and is paid once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.models.engines.providers.batches.vendor_batches import VendorBatches
from sightflow.blocks.money.batch_holds import BatchHolds
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches import collection as collection_module
from sightflow.tasks.batches.poll import unsettled
from sightflow.tasks.open import open_catalog
from tests.loopback.hosted_systems import GEMINI, GPT, QWEN, System, named
from tests.loopback.server import Received, Say
from tests.tasks.batches.stages import Books, collect, images, processes_are_gone, run, spec_of, without_prefect

COUNT = 6
BUDGET = {"budget": {"run": 1, "day": 1}}


class Killed(BaseException):
    """Ends the process where it is raised."""


def dies(
    owner: Any, name: str, after: bool = False, of: BatchState | None = None
) -> Callable[[pytest.MonkeyPatch], None]:
    """A patch with which a method ends the process before or `after` it has done its work, for this state alone."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        method = getattr(owner, name)

        def killed(*args: Any, **kwargs: Any) -> Any:
            if of is not None and of not in args:
                return method(*args, **kwargs)
            if after:
                method(*args, **kwargs)
            raise Killed

        monkeypatch.setattr(owner, name, killed)

    return patch


KILLS = {
    "before the record": dies(BatchLog, "record"),
    "record": dies(BatchLog, "record", after=True),
    "reserved": dies(BatchHolds, "reserve", after=True),
    "upload": dies(VendorBatches, "upload", after=True),
    "creating": dies(BatchLog, "advance", after=True, of=BatchState.CREATING),
    "create": dies(VendorBatches, "create", after=True),
    "submitted": dies(BatchLog, "advance", after=True, of=BatchState.SUBMITTED),
    "poll": dies(VendorBatches, "look_up", after=True),
    "collecting": dies(BatchLog, "advance", after=True, of=BatchState.COLLECTING),
    "download": dies(VendorBatches, "download", after=True),
    "before settled": dies(BatchHolds, "settle"),
    "settled": dies(BatchHolds, "settle", after=True),
    "publish": dies(collection_module, "publish", after=True),
    "before collected": dies(BatchLog, "advance", of=BatchState.COLLECTED),
    "collected": dies(BatchLog, "advance", after=True, of=BatchState.COLLECTED),
    "remove": dies(VendorBatches, "remove", after=True),
    "closed": dies(BatchLog, "advance", after=True, of=BatchState.CLOSED),
}


@pytest.mark.parametrize(
    ("kill", "system"),
    [*((kill, GPT) for kill in KILLS), ("upload", GEMINI), ("create", QWEN)],
    ids=lambda value: named(value) if isinstance(value, System) else value,
)
def test_a_killed_process_costs_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str, system: System
) -> None:
    without_prefect(monkeypatch)
    images(tmp_path / "media", COUNT)
    monkeypatch.setattr(collection_module, "_GROUP", 4)  # a publish is not the last one
    looks: list[Books] = []

    def behave(received: Received) -> Say:
        looks[0].look()
        return Say("a plain image")

    with system.on_loopback(behave) as provider:
        spec = spec_of(tmp_path, system.name, provider.url, policy=BUDGET, id=system.id)
        looks.append(books := Books(provider, system, spec))
        with monkeypatch.context() as patched:
            KILLS[kill](patched)
            with pytest.raises(Killed):  # noqa: PT012 - whichever of them it is
                run(spec)
                collect(spec)
        books.look()
        processes_are_gone(monkeypatch)
        collect(spec)
        books.look()
        run(spec)
        collect(spec)
        books.end()
        catalog = open_catalog(spec)
        assert unsettled(catalog) == []
        assert provider.complaints == []
        answers = list(provider.answered.values())
        kept = dict(provider.batches.files)
    rows = catalog.scan("enrichments").collect()
    assert sorted(uri.rpartition("/")[2] for uri in rows["uri"]) == [f"{k:04d}.png" for k in range(COUNT)]
    assert catalog.scan("quarantine").collect().is_empty()
    assert answers == [1] * COUNT, "each is paid once"
    assert kept == {}, "no file stays at the vendor"
