"""The flows' stages one after the other, without Prefect: what a batch goes through, in milliseconds."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from sightflow.blocks.catalog.appender import key_frame
from sightflow.blocks.catalog.run_writer import RunWriter
from sightflow.blocks.money.balance import PER_DOLLAR, Balance
from sightflow.schemas.run.plan import RunPlan
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.batches import collection as collection_module
from sightflow.tasks.batches import poll as poll_module
from sightflow.tasks.batches.budget import settle_left
from sightflow.tasks.batches.collection import Collection
from sightflow.tasks.batches.poll import poll, unsettled
from sightflow.tasks.batches.results import download
from sightflow.tasks.batches.submit import submit
from sightflow.tasks.discover import discover
from sightflow.tasks.fetch import fetch
from sightflow.tasks.infer import infer
from sightflow.tasks.open import open_catalog
from sightflow.tasks.plan import plan
from sightflow.tasks.publish import publish
from sightflow.tasks.runtime import loaded_models
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.runtime.sharding import shards_of
from sightflow.tasks.runtime.spending import ledger_of, spending
from sightflow.tasks.runtime.task_runner import WorkerPool
from sightflow.tasks.validate import validate
from tests.loopback.hosted_systems import System
from tests.loopback.server import LoopbackProvider

VARIABLES = ("OPENAI_API_KEY", "GOOGLE_API_KEY", "DASHSCOPE_API_KEY")
CAPTION = {"capability": "image captioning", "name": "caption"}


def planned(spec: EnrichmentSpec) -> RunPlan:
    return plan.fn(discover.fn(spec), spec)


def run(spec: EnrichmentSpec) -> int:
    """As the flow `enrich` does; return how much was submitted."""
    run_plan = planned(spec)
    writer, submitted = RunWriter(open_catalog(spec), run_plan.version), 0
    for shard in shards_of(run_plan, spec.policy, ShardSizer()):
        fetched = fetch.fn(shard, spec)
        batch = shard.delivery == "batch"
        replies = submit.fn(shard, fetched, spec, "run") if batch else infer.fn(shard, fetched, spec)
        validated = validate.fn(shard, replies, "run")
        publish.fn(writer, validated.rows, validated.failed, key_frame(validated.replaced))
        submitted += validated.submitted.total()
        if validated.error:
            raise validated.error
    return submitted


def collect(spec: EnrichmentSpec) -> Collection:
    """As the flow `collect` does."""
    catalog = open_catalog(spec)
    collection = Collection(catalog, spec, "collect")
    settle_left(catalog, spec)
    with spending(spec, "collect", None, WorkerPool()):
        for batch in unsettled(catalog):
            with collection.about(batch):
                polled = poll.fn(catalog, batch, spec)
                collection.polled(polled)
                if polled.has_results:
                    for shard, replies in collection.results():
                        collection.publish(validate.fn(shard, replies, "collect"))
                collection.close()
    return collection


def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stages call as tasks is called as functions; keys are there."""
    monkeypatch.setattr(collection_module, "publish", publish.fn)
    monkeypatch.setattr(collection_module, "download", download.fn)
    monkeypatch.setattr(loaded_models, "freeze_gc", lambda: None)  # which takes longer than all else here
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "sk-Secret0123456789-VeryPrivate")


def processes_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took the last step of a batch is taken for gone, and long ago."""
    monkeypatch.setattr(poll_module, "has_ended", lambda owner: True)
    monkeypatch.setattr(poll_module, "SURE", poll_module.SURE * 0)


class Books:
    """The vendor's meter beside the ledger, whenever they are looked at."""

    def __init__(self, provider: LoopbackProvider, system: System, spec: EnrichmentSpec) -> None:
        self.provider, self.spec = provider, spec
        rates = system.model(id=system.id).rates
        assert rates is not None and rates.batch is not None
        self._dollars, self._share = (rates.input, rates.output), rates.batch
        self.direct: Counter[str] = Counter()
        self.wrong: list[str] = []

    @property
    def charged(self) -> int:
        """Nanodollars: what was `direct` at the whole price, the rest at that of a batch."""
        billed, usd = self.provider.billed_tokens, 0.0
        for kind, dollars in zip(("input", "output"), self._dollars, strict=True):
            usd += dollars / 1e6 * (self._share * (billed[kind] - self.direct[kind]) + self.direct[kind])
        return round(usd * PER_DOLLAR)

    def look(self) -> Balance:
        """The ledger, which is never below the meter, and never above what is allowed."""
        charged, balance = self.charged, ledger_of(self.spec).balance()
        used = sum(balance.used("day", day) for day in {*balance.days, *(each.day for each in balance.blocks.values())})
        if used < charged:
            self.wrong.append(f"{used} are counted, and {charged} are charged")
        budget = self.spec.policy.budget
        if budget and budget.day and used > budget.day * PER_DOLLAR:
            self.wrong.append(f"{used} are counted, and {budget.day} dollars are allowed")
        return balance

    def end(self) -> None:
        """All is settled: ledger and meter say the same, and nothing is held."""
        balance = self.look()
        assert self.wrong == []
        assert balance.blocks == {}
        assert [each.unknown for each in balance.days.values() if each.unknown] == []
        assert sum(each.known for each in balance.days.values()) == pytest.approx(self.charged, abs=10)


def images(folder: Path, count: int, size: int = 16) -> None:
    """So many plain images, each of its own colour."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        Image.new("RGB", (size, size), (k // 256, k % 256, 0)).save(folder / f"{k:04d}.png")


def spec_of(
    folder: Path,
    system: str,
    url: str,
    enrichments: Sequence[dict[str, Any]] = (CAPTION,),
    policy: dict[str, Any] | None = None,
    catalog: str = "catalog",
    **settings: Any,
) -> EnrichmentSpec:
    """A spec that has the images of a folder asked by batch, unless its policy says otherwise."""
    written = {
        "source": f"{folder}/media/*",
        "catalog": f"{folder}/{catalog}",
        "enrichments": [{"model": system, **each} for each in enrichments],
        "models": {system: {"base_url": url, "max_concurrency": 4, "max_attempts": 2, **settings}},
        "policy": {"hosted": "allow", "delivery": "batch", "max_quarantine_ratio": 1.0} | (policy or {}),
    }
    path = folder / f"{catalog}.yaml"
    path.write_text(yaml.safe_dump(written))
    return read_spec(path)
