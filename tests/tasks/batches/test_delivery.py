"""What goes by batch ends as what is asked directly does, whatever the vendor makes of it in between."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.models.engines.providers.batches.vendor_batches import VendorBatches
from sightflow.schemas.failure import ModelError
from sightflow.schemas.run.plan import Status
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches.cancel import cancel_batch
from sightflow.tasks.batches.poll import unsettled
from sightflow.tasks.open import open_catalog
from tests.loopback.batches.service import EXPIRED, FAILED
from tests.loopback.hosted_systems import GEMINI, GPT, QWEN, QWEN_OLD, SYSTEMS, System, named, perfect
from tests.loopback.server import Received, Say
from tests.loopback.server import Status as Declined
from tests.tasks.batches.stages import collect, images, planned, run, spec_of, without_prefect

CHOOSE = {
    "capability": "visual question answering",
    "name": "choose",
    "question": "Is there a box?",
    "choices": ["yes", "no", "unsure"],
}
DETECT = {"capability": "object detection", "name": "boxes", "labels": ["box"]}
SEGMENT = {"capability": "segmentation", "name": "masks", "labels": ["box"]}
OF_DELIVERY = ("cost_usd", "run_id", "inferred_at")


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    without_prefect(monkeypatch)


def rows_of(spec: Any, table: Any = "enrichments") -> pl.DataFrame:
    return open_catalog(spec).scan(table).collect().sort("uri", "enrichment")


def plain(received: Received) -> Say:
    return Say("a plain image")


def boxed(folder: Path, count: int) -> None:
    """Images with a red box each, one of them turned by its EXIF orientation."""
    from tests.loopback.hosted_systems import image_with_box

    folder.mkdir()
    for k in range(count):
        image = image_with_box((640 + k, 480), (100 + k, 60, 300, 240))
        exif = image.getexif()
        exif[0x0112] = 6 if k == 1 else 1
        image.save(folder / f"{k}.jpg", exif=exif, quality=95)


@pytest.mark.parametrize("system", [GPT, GEMINI, QWEN_OLD], ids=named)
def test_rows_are_those_of_direct_delivery_but_for_what_they_cost(system: System, tmp_path: Path) -> None:
    boxed(tmp_path / "media", 2)
    enrichments = [{"capability": "image captioning", "name": "caption"}, CHOOSE, DETECT, SEGMENT]
    with system.on_loopback(perfect(system)) as provider:
        provider.batches.polls = 1
        by_batch = spec_of(tmp_path, system.name, provider.url, enrichments, id=system.id)
        directly = spec_of(
            tmp_path, system.name, provider.url, enrichments, {"delivery": "direct"}, "direct", id=system.id
        )
        run(directly)
        plans = planned(by_batch).plans
        assert run(by_batch) == 8
        assert planned(by_batch).count(Status.UNDER_WAY) == 8 and run(by_batch) == 0
        collect(by_batch)
        assert rows_of(by_batch).is_empty() and planned(by_batch).to_compute == 0, "the vendor works on it"
        (outcome,) = collect(by_batch).outcomes
        assert provider.complaints == []
        assert provider.batches.files == {}
    assert (outcome.state, outcome.published, outcome.note) == (BatchState.CLOSED, 8, "")
    rows, direct = rows_of(by_batch), rows_of(directly)
    assert_frame_equal(rows.drop(OF_DELIVERY), direct.drop(OF_DELIVERY))
    assert rows["cost_usd"].to_list() == pytest.approx((direct["cost_usd"] / 2).to_list())
    assert [p.price for p in plans] == pytest.approx([p.price / 2 for p in planned(directly_again(directly)).plans])
    assert planned(by_batch).to_compute == 0


def directly_again(spec: Any) -> Any:
    """The same for a catalog that is empty."""
    return spec.model_copy(update={"catalog": f"{spec.catalog}-empty"})


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_failures_expiry_strangers_and_nonsense_cost_nobody_else_anything(system: System, tmp_path: Path) -> None:
    images(tmp_path / "media", 20)

    def behave(received: Received) -> Say | Declined:
        k = received.images[0].getpixel((0, 0))[1]
        first = received.number < 20
        return Declined(500, "InternalError") if first and k == 3 else Say("", "empty") if k == 4 else Say("plain")

    with system.on_loopback(behave) as provider:
        key = "key" if system is GEMINI else "custom_id"

        def tampered(lines: list[bytes]) -> list[bytes]:
            strange = json.dumps(json.loads(lines[0]) | {key: "f" * 32 + "-0"}).encode() + b"\n" if lines else b""
            return [b"{not json}\n", strange, *lines, *lines[:2], b"\n", lines[-1][:40] if lines else b""]

        provider.batches.tampered = tampered
        provider.batches.share, provider.batches.ends = 0.5, EXPIRED
        spec = spec_of(tmp_path, system.name, provider.url, id=system.id)
        run(spec)
        (outcome,) = collect(spec).outcomes
        assert outcome.not_done == 10 and outcome.published + outcome.quarantined == 10
        assert outcome.strangers >= 1 and outcome.doubled >= 2 and outcome.unreadable >= 2
        assert "expired" in outcome.note
        provider.batches.share, provider.batches.ends, provider.batches.tampered = 1.0, "completed", lambda lines: lines
        for _ in range(2):
            run(spec)
            collect(spec)
        assert unsettled(open_catalog(spec)) == []
        answered = list(provider.answered.values())
    assert rows_of(spec).height == 19
    failed = rows_of(spec, "quarantine")
    assert failed.select(pl.col("uri").str.slice(-8), "cause").rows() == [("0004.png", "malformed")]
    assert answered == [1] * 20, "each is paid once"


def test_a_vendor_that_has_lost_the_results_is_asked_again(tmp_path: Path) -> None:
    images(tmp_path / "media", 3)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        run(spec)
        for job in list(provider.batches.jobs.values()):
            provider.batches.finish(job)
            for file in job.results:
                provider.batches.files.pop(file)
        (outcome,) = collect(spec).outcomes
        assert outcome.not_done == 3 and "lost the results" in outcome.note and outcome.state is BatchState.CLOSED
        assert run(spec) == 3
        collect(spec)
    assert rows_of(spec).height == 3


def test_a_batch_that_failed_as_a_whole_says_why_and_is_asked_again(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GEMINI.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GEMINI.name, provider.url)
        provider.batches.share, provider.batches.ends = 0.0, FAILED
        run(spec)
        (outcome,) = collect(spec).outcomes
        assert outcome.not_done == 2 and "failed at Google" in outcome.note
        provider.batches.share, provider.batches.ends = 1.0, "completed"
        run(spec)
        collect(spec)
    assert rows_of(spec).height == 2


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_an_unreadable_reply_is_repaired_by_one_direct_request_that_shows_it(system: System, tmp_path: Path) -> None:
    boxed(tmp_path / "media", 3)
    well = perfect(system)

    def behave(received: Received) -> Any:
        return well(received) if received.is_repair or received.images[0].width % 2 else Say("I see a box, I think.")

    with system.on_loopback(behave) as provider:
        spec = spec_of(tmp_path, system.name, provider.url, [DETECT], id=system.id)
        run(spec)
        (outcome,) = collect(spec).outcomes
        repairs = [received for received in provider.received if received.is_repair]
        assert all("I see a box, I think." in " ".join(received.texts) for received in repairs) or system is GEMINI
    assert outcome.published == 3 and outcome.quarantined == 0
    assert outcome.repaired == len(repairs) > 0
    rows = rows_of(spec)
    assert rows["regions"].list.len().to_list() == [1, 1, 1]
    mended = rows.filter(pl.col("raw_reply").str.contains("I think"))
    assert mended.height == len(repairs)
    least = rows.filter(~pl.col("raw_reply").str.contains("I think"))["cost_usd"]
    assert least.is_empty() or (mended["cost_usd"] > 2 * least.min()).all(), "half, and a whole one"


def test_files_are_cut_within_the_vendors_limits_by_bytes_and_by_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images(tmp_path / "media", 11)
    connect = VendorBatches.__init__
    limits = {"requests": 4}

    def small(self: VendorBatches, engine: Any, given: Any) -> None:
        connect(self, engine, replace(given, **limits))

    monkeypatch.setattr(VendorBatches, "__init__", small)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        assert run(spec) == 11
        assert sorted(batch.requests for batch in BatchLog(open_catalog(spec)).batches()) == [3, 4, 4]
        assert provider.batches.most_lines == 4
        collect(spec)
        assert rows_of(spec).height == 11
        limits.clear()
        limits["file_bytes"] = 2 * provider.batches.largest // 4 + 10
        spec = spec_of(tmp_path, GPT.name, provider.url, catalog="other", policy={"shard_size": 500}, timeout=60)
        assert run(spec) == 11
        assert {batch.requests for batch in BatchLog(open_catalog(spec)).batches()} == {1, 2}
        limits.clear()
        limits["line_bytes"] = 100
        spec = spec_of(tmp_path, GPT.name, provider.url, catalog="third", timeout=61)
        assert run(spec) == 0
    failed = rows_of(spec, "quarantine")
    assert failed["cause"].to_list() == ["too_large"] * 11 and "delivery: direct" in failed["message"][0]


def test_unreadable_images_go_to_the_quarantine_at_once_and_the_others_are_asked(tmp_path: Path) -> None:
    images(tmp_path / "media", 3)
    (tmp_path / "media" / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with QWEN.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, QWEN.name, provider.url)
        assert run(spec) == 2
        assert rows_of(spec, "quarantine").height == 1
        collect(spec)
    assert rows_of(spec).height == 2


def test_what_has_changed_meanwhile_is_not_replaced_by_an_older_result(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(lambda received: Say(f"{received.images[0].getpixel((0, 0))}")) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        run(spec)
        images(tmp_path / "media", 2, size=20)  # both are new objects now
        directly = spec_of(tmp_path, GPT.name, provider.url, policy={"delivery": "direct"})
        assert planned(directly).to_compute == 2
        run(directly)
        before = rows_of(spec)
        (outcome,) = collect(spec).outcomes
        assert (outcome.overtaken, outcome.published) == (2, 0)
        assert_frame_equal(rows_of(spec), before)


def test_another_spec_of_the_same_catalog_leaves_a_batch_to_the_one_that_submitted_it(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider:
        own = spec_of(tmp_path, GPT.name, provider.url)
        run(own)
        other = spec_of(tmp_path, GPT.name, provider.url, max_new_tokens=100)
        (outcome,) = collect(other).outcomes
        assert outcome.state is BatchState.SUBMITTED and "--drop" in outcome.note
        (outcome,) = collect(own).outcomes
        assert outcome.published == 2
        assert run(other) == 2
        (batch,) = unsettled(open_catalog(own))
        collect(own)
        assert "given up" in cancel_batch(open_catalog(own), batch, own, drop=True)
        assert unsettled(open_catalog(own)) == [] and provider.batches.files == {}
        assert planned(other).to_compute == 2


def test_a_key_that_is_refused_submits_nothing_and_is_asked_again(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider:
        answer = provider.routes.answer
        provider.routes.answer = lambda http, method: _refused(provider, http) or True  # type: ignore[method-assign]
        spec = spec_of(tmp_path, GPT.name, provider.url)
        with pytest.raises(ModelError, match="key was refused"):
            run(spec)
        provider.routes.answer = answer  # type: ignore[method-assign]
        assert [batch.state for batch in BatchLog(open_catalog(spec)).batches()] == [BatchState.ABANDONED]
        assert run(spec) == 2


def _refused(provider: Any, http: Any) -> None:
    http.rfile.read(int(http.headers.get("Content-Length") or 0))
    provider._reply(http, 401, {"error": {"message": "no", "code": "invalid_api_key"}})


def test_a_cancelled_batch_is_collected_and_the_rest_asked_again(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider:
        provider.batches.polls = 100
        spec = spec_of(tmp_path, GPT.name, provider.url)
        run(spec)
        catalog = open_catalog(spec)
        (batch,) = unsettled(catalog)
        assert "has been told" in cancel_batch(catalog, batch, spec)
        (outcome,) = collect(spec).outcomes
        assert outcome.not_done == 2 and outcome.state is BatchState.CLOSED
        assert planned(spec).to_compute == 2


def test_a_live_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path / "media", 2)
    with GPT.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, GPT.name, provider.url)
        with monkeypatch.context() as patched:
            patched.setattr(VendorBatches, "upload", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                run(spec)
        (outcome,) = collect(spec).outcomes
        assert (outcome.state, outcome.note) == (BatchState.RECORDED, "being submitted")
        assert planned(spec).to_compute == 0
        monkeypatch.setattr("sightflow.tasks.batches.poll.LEASE", timedelta(0))
        (outcome,) = collect(spec).outcomes
        assert outcome.state is BatchState.ABANDONED
        assert planned(spec).to_compute == 2


def test_a_model_without_batches_is_asked_directly_and_the_plan_says_so(tmp_path: Path) -> None:
    images(tmp_path / "media", 2)
    with QWEN.on_loopback(plain) as provider:
        spec = spec_of(tmp_path, QWEN.name, provider.url, id="qwen3.8-flash")
        (enrichment,) = planned(spec).plans
        assert enrichment.delivery.by == "direct" and "no batches of qwen3.8-flash" in enrichment.delivery.note
        assert run(spec) == 0
        assert rows_of(spec).height == 2
