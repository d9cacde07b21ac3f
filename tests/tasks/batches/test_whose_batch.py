"""A catalog has several specs, keys change, and a catalog may lie: nothing paid is dropped, asked twice or removed."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.models.engines.providers.batches.vendor_batches import VendorBatches
from sightflow.schemas.failure import SpecError, StoreError
from sightflow.schemas.spec_reader import read_spec
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches.cancel import cancel_batch
from sightflow.tasks.batches.poll import unsettled
from sightflow.tasks.open import open_catalog
from tests.loopback.hosted_systems import GEMINI, GPT
from tests.loopback.server import Received, Say
from tests.tasks.batches.stages import collect, images, processes_are_gone, run, spec_of, without_prefect

OTHER = {"capability": "image captioning", "name": "other"}


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    without_prefect(monkeypatch)


def plain(received: Received) -> Say:
    return Say("a plain image")


def published(spec: Any) -> int:
    return open_catalog(spec).scan("enrichments").collect().height


def test_a_spec_leaves_the_batches_of_another_spec_of_its_catalog(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider:
        asking = spec_of(tmp_path, GPT.name, provider.url)
        other = spec_of(tmp_path, GPT.name, provider.url, [OTHER], max_new_tokens=100)
        run(asking)
        collected = collect(other)
        assert collected.errors == [] and collected.published == 0
        assert [(each.state, each.overtaken) for each in collected.outcomes] == [(BatchState.SUBMITTED, 0)]
        assert "it asks caption, which this spec does not" in collected.outcomes[0].note
        (batch,) = unsettled(open_catalog(other))
        with pytest.raises(SpecError, match="cancel it with the spec that has asked it"):
            cancel_batch(open_catalog(other), batch, other)
        collect(asking)
        assert published(asking) == 2 and list(provider.answered.values()) == [1, 1]
        run(other)
        (outcome,) = collect(asking).outcomes
        assert outcome.state is BatchState.SUBMITTED and "it asks other, which this spec does not" in outcome.note
        collect(other)
        assert published(asking) == 4


def test_a_batch_of_another_vendor_is_not_looked_for_at_this_one(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider, GEMINI.on_loopback(plain) as elsewhere:
        spec_of(tmp_path, "mine", provider.url)
        path = tmp_path / "catalog.yaml"
        written = path.read_text()
        path.write_text(written.replace("  mine:\n", f"  mine:\n    system: {GPT.name}\n"))
        asking = read_spec(path)
        run(asking)
        changed = written.replace("  mine:\n", f"  mine:\n    system: {GEMINI.name}\n")
        path.write_text(changed.replace(provider.url, elsewhere.url))
        collected = collect(read_spec(path))
        assert collected.errors == []
        assert "was asked at OpenAI, and is at" in collected.outcomes[0].note
        collect(asking)
        assert published(asking) == 2


def test_what_another_key_may_have_begun_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an account that has neither the batch nor its file nothing is concluded."""
    images(tmp_path / "media", 2)
    create = VendorBatches.create

    def dies(self: VendorBatches, *args: Any) -> Any:
        create(self, *args)
        raise KeyboardInterrupt

    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        with monkeypatch.context() as patched:
            patched.setattr(VendorBatches, "create", dies)
            with pytest.raises(KeyboardInterrupt):
                run(spec)
        processes_are_gone(monkeypatch)
        with monkeypatch.context() as patched:
            patched.setattr(VendorBatches, "find", lambda *_: None)
            patched.setattr("sightflow.blocks.models.engines.providers.batches.openai_batches._MOST_LISTED", 0)
            (outcome,) = collect(spec).outcomes
        assert outcome.state is BatchState.CREATING and "which may be another" in outcome.note
        assert run(spec) == 0, "it is under way"
        collect(spec)
        assert published(spec) == 2 and list(provider.answered.values()) == [1, 1]


def test_no_file_is_removed_that_the_vendor_does_not_say_is_of_the_batch(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        run(spec)
        theirs = [provider.batches.keep(b"", f"{name}.jsonl") for name in ("input", "results")]
        foreign = provider.batches.create(theirs[0], "somebody-else")
        provider.batches.finish(foreign)
        catalog = open_catalog(spec)
        (batch,) = unsettled(catalog)
        said = {"input_file": theirs[0], "result_files": (theirs[1],), "vendor_batch": foreign.id}
        BatchLog(catalog).advance(batch, BatchState.COLLECTED, **said)
        (outcome,) = collect(spec).outcomes
        assert outcome.state is BatchState.CLOSED
        assert {*theirs, *foreign.results} <= set(provider.batches.files)


def test_a_state_that_nobody_knows_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "media", 1)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        run(spec)
        newest = BatchLog._newest
        later = pl.lit("of a later version").alias("state")
        monkeypatch.setattr(BatchLog, "_newest", lambda self: newest(self).with_columns(later))
        with pytest.raises(StoreError, match="a newer version has written it"):
            unsettled(open_catalog(spec))
