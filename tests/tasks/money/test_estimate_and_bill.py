"""What a plan expects is what vendors on loopback, which charge by meters of their own, charge: within a twentieth."""

import io
import json
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
from PIL import Image

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.estimate import Estimate
from sightflow.schemas.run.plan import RunPlan
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.discover import discover
from sightflow.tasks.fetch import fetch
from sightflow.tasks.infer import infer
from sightflow.tasks.money.exact_counts import counted_by_vendors
from sightflow.tasks.money.media_sizes import SAMPLE, sample
from sightflow.tasks.plan import plan
from sightflow.tasks.runtime import loaded_models
from sightflow.tasks.runtime.shard_sizing import ShardSizer
from sightflow.tasks.runtime.sharding import shards_of
from sightflow.tasks.validate import Validated, validate
from tests.loopback.hosted_systems import KEY
from tests.loopback.server import Say
from tests.tasks.money.meter import Metered, MeteredDashScope, MeteredGemini, MeteredOpenAI, cells, patches, tiles
from tests.videos import numbered

SIZES = (
    (64, 48), (320, 240), (640, 640), (960, 540), (1024, 1024), (1920, 1080), (1800, 2400), (2100, 300), (500, 1700),
    (30, 900),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "DASHSCOPE_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setattr(loaded_models, "_LOADED", {})
    monkeypatch.setattr(calendar_day, "today", lambda: date(2026, 11, 27))  # prices change


def tiles_of_two_thirds(size: tuple[int, int]) -> float:
    """Gemini 2.5's."""
    if size[0] <= 384 and size[1] <= 384:
        return 258
    side = min(768, max(256, min(size) * 2 // 3))
    return 258.0 * -(-size[0] // side) * -(-size[1] // side)


METERS: dict[str, tuple[type[Metered], Callable[[tuple[int, int]], float], tuple[float, float]]] = {
    "gpt-4o": (MeteredOpenAI, tiles(85, 170), (2.5, 10)),
    "gpt-4.1-mini": (MeteredOpenAI, patches(1.62), (0.4, 1.6)),
    "gpt-6-luna": (MeteredOpenAI, patches(1.2), (0.1, 0.5)),
    "gemini-3.8-flash": (MeteredGemini, lambda _: 1120.0, (0.75, 3.75)),
    "gemini-2.5-flash": (MeteredGemini, tiles_of_two_thirds, (0.3, 2.5)),
    "qwen3.7-plus": (MeteredDashScope, cells(32), (0.4, 1.6)),
    "qwen-vl-max": (MeteredDashScope, cells(28), (0.8, 3.2)),
}
USUAL_REPLY = dict.fromkeys(METERS, 40) | {"gemini-3.8-flash": 40 + 512}  # a caption, and what is thought before it
SYSTEM = {MeteredOpenAI: "gpt-4o", MeteredGemini: "gemini", MeteredDashScope: "qwen-vl-max"}


def metered(model_id: str, **of_vendor: Any) -> tuple[Metered, str]:
    vendor, image, dollars = METERS[model_id]
    provider = vendor(lambda _: Say("A plain picture of one colour."))
    provider.image, provider.dollars = image, dollars  # type: ignore[method-assign]
    provider.reply_tokens = USUAL_REPLY[model_id]
    for name, value in of_vendor.items():
        setattr(provider, name, value)
    return provider, SYSTEM[vendor]


def planned(spec: EnrichmentSpec) -> RunPlan:
    return plan.without_prefect(discover.without_prefect(spec, check=False), spec)


def done(run_plan: RunPlan, spec: EnrichmentSpec) -> list[Validated]:
    """What a run does, without Prefect."""
    shards = list(shards_of(run_plan, spec.policy, ShardSizer(1)))
    return [validate.fn(shard, infer.fn(shard, fetch.fn(shard, spec), spec), "run") for shard in shards]


@cache
def drawn(size: tuple[int, int], red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (red, 90, 200)).save(file, "JPEG", quality=40)
    return file.getvalue()


def pictures(folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> str:
    folder.mkdir()
    for k, size in enumerate(sizes):
        (folder / f"{k:03d}.jpg").write_bytes(drawn(size, k))
    return f"{folder}/*"


def spec_of(write_spec: Any, source: str, model_id: str, system: str, url: str, **asked: Any) -> EnrichmentSpec:
    enrichment = {"capability": "image captioning", "name": "caption", "model": system} | asked
    return read_spec(
        write_spec(
            source,
            models={system: {"id": model_id, "base_url": url}},
            enrichments=[enrichment],
            policy={"hosted": "allow", "max_quarantine_ratio": 1.0},
        )
    )


def the_estimate(run_plan: RunPlan) -> Estimate:
    (only,) = run_plan.plans
    return only.estimate


@pytest.mark.parametrize("model_id", METERS)
def test_images_of_ten_sizes(tmp_path: Path, write_spec: Any, model_id: str) -> None:
    provider, system = metered(model_id)
    with provider:
        spec = spec_of(write_spec, pictures(tmp_path / "media"), model_id, system, provider.url)
        run_plan = planned(spec)
        expected = the_estimate(run_plan)
        (validated,) = done(run_plan, spec)
    assert provider.complaints == []
    assert validated.rows.height == len(SIZES) == expected.items
    assert expected.input_tokens == pytest.approx(provider.billed_tokens["input"], rel=0.05)
    assert expected.output_tokens == provider.billed_tokens["output"]
    assert run_plan.price == expected.price == pytest.approx(provider.charged, rel=0.05)
    assert sum(validated.rows["cost_usd"]) == pytest.approx(provider.charged)
    assert "10 read" in expected.known_by and expected.seconds


@pytest.mark.parametrize("model_id", ["gpt-4o", "gemini-3.8-flash", "qwen3.7-plus"])
def test_what_is_asked_together_is_paid_once(tmp_path: Path, write_spec: Any, model_id: str) -> None:
    asked = {"caption": {}, "detailed": {"detail": "detailed"}, "paragraph": {"detail": "paragraph"}}
    provider, system = metered(model_id)
    said = dict.fromkeys(asked, "A plain picture of one colour.")
    provider.behaviour = lambda _: Say(json.dumps(said))
    with provider:
        enrichments = [
            {"capability": "image captioning", "name": name, "model": system, **more} for name, more in asked.items()
        ]
        spec = read_spec(
            write_spec(
                pictures(tmp_path / "media"),
                models={system: {"id": model_id, "base_url": provider.url, "combine": True}},
                enrichments=enrichments,
                policy={"hosted": "allow", "max_quarantine_ratio": 1.0},
            )
        )
        run_plan = planned(spec)
        (validated,) = done(run_plan, spec)
    assert provider.complaints == [] and len(provider.received) == len(SIZES)
    assert validated.rows.height == len(asked) * len(SIZES)
    expected = sum(each.estimate.input_tokens for each in run_plan.plans)
    assert expected == pytest.approx(provider.billed_tokens["input"], rel=0.05)
    assert sum(validated.rows["cost_usd"]) == pytest.approx(provider.charged)


def test_what_goes_by_batch_is_asked_one_by_one_whatever_is_combined(tmp_path: Path, write_spec: Any) -> None:
    source = pictures(tmp_path / "media", SIZES[:3])
    enrichments = [{"capability": "image captioning", "name": name, "model": "gpt-4o"} for name in ("one", "two")]
    tokens = []
    for combine in (False, True):
        spec = read_spec(
            write_spec(
                source,
                models={"gpt-4o": {"id": "gpt-4o", "combine": combine}},
                enrichments=enrichments,
                policy={"hosted": "allow", "delivery": "batch"},
            )
        )
        tokens.append([each.estimate.input_tokens for each in planned(spec).plans])
    assert tokens[0] == tokens[1]


def video(path: Path, seconds: float, sound: bool) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        heard: Any = out.add_stream("aac", rate=8000) if sound else None
        for k in range(round(10 * seconds)):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(k % 256, 320, 180), format="rgb24")))
        out.mux(stream.encode())
        if heard:
            silence = np.zeros((1, round(8000 * seconds)), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
            out.mux(heard.encode(frame))
            out.mux(heard.encode())


@pytest.mark.parametrize(
    "model_id, sampling", [("gemini-3.8-flash", None), ("qwen3.7-plus", None), ("gpt-4o", {"fps": 2, "max_frames": 4})]
)
def test_videos_with_sound_and_without(tmp_path: Path, write_spec: Any, model_id: str, sampling: Any) -> None:
    (tmp_path / "media").mkdir()
    for k, (seconds, sound) in enumerate([(2.0, True), (5.0, False), (3.5, True)]):
        video(tmp_path / "media" / f"{k}.mp4", seconds, sound)
    provider, system = metered(model_id)
    asked = {"capability": "video captioning"} | ({"sampling": sampling} if sampling else {})
    with provider:
        spec = spec_of(write_spec, f"{tmp_path}/media/*", model_id, system, provider.url, **asked)
        run_plan = planned(spec)
        (validated,) = done(run_plan, spec)
    assert provider.complaints == []
    assert validated.rows.height == 3
    assert the_estimate(run_plan).input_tokens == pytest.approx(provider.billed_tokens["input"], rel=0.05)
    assert run_plan.price == pytest.approx(provider.charged, rel=0.05)


@pytest.mark.parametrize("model_id", ["gpt-6-luna", "gemini-2.5-flash"])
def test_a_vendor_that_counts_is_asked_about_a_sample_and_charges_nothing(
    tmp_path: Path, write_spec: Any, model_id: str
) -> None:
    provider, system = metered(model_id)
    counted_image = METERS[model_id][1]
    provider.image = lambda size: 2 * counted_image(size)  # type: ignore[method-assign] - no rule of ours says so
    with provider:
        spec = spec_of(write_spec, pictures(tmp_path / "media", SIZES[:6]), model_id, system, provider.url)
        exact = counted_by_vendors(planned(spec), spec)
        assert provider.received == [] and provider.counted == 6  # type: ignore[attr-defined]
        (validated,) = done(exact, spec)
    assert provider.complaints == [] and validated.failed.is_empty()
    assert the_estimate(exact).input_tokens == pytest.approx(provider.billed_tokens["input"], rel=0.02)
    assert exact.price == pytest.approx(provider.charged, rel=0.05)
    assert "counted by the vendor over 6 objects" in the_estimate(exact).known_by


def test_what_goes_by_batch_is_counted_at_the_price_of_a_batch(tmp_path: Path, write_spec: Any) -> None:
    provider, system = metered("gpt-6-luna")
    with provider:
        source = pictures(tmp_path / "media", SIZES[:2])
        spec = spec_of(write_spec, source, "gpt-6-luna", system, provider.url, delivery="batch")
        before = planned(spec)
        assert before.plans[0].delivery.by == "batch"
        assert counted_by_vendors(before, spec).price == pytest.approx(before.price, rel=0.1)


def test_a_vendor_that_does_not_count_is_said_not_to(tmp_path: Path, write_spec: Any) -> None:
    provider, system = metered("qwen3.7-plus")
    with provider:
        spec = spec_of(write_spec, pictures(tmp_path / "media", SIZES[:2]), "qwen3.7-plus", system, provider.url)
        before = planned(spec)
        after = counted_by_vendors(before, spec)
    assert after.price == before.price and "Alibaba Cloud has no endpoint that counts" in the_estimate(after).known_by


def test_objects_that_cannot_be_read_are_taken_to_be_of_usual_size(tmp_path: Path, write_spec: Any) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    spec = spec_of(write_spec, f"{tmp_path}/media/*", "gpt-4o", "gpt-4o", "http://127.0.0.1:9")
    expected = the_estimate(planned(spec))
    assert expected.items == 1 and "1920 x 1080" in expected.known_by and expected.price > 0


def test_what_the_catalog_knows_of_an_object_is_not_read_again(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, system = metered("gpt-4o")
    with provider:
        spec = spec_of(write_spec, pictures(tmp_path / "media"), "gpt-4o", system, provider.url)
        (validated,) = done(planned(spec), spec)
        Catalog(uri=spec.catalog).publish(validated.rows)
        another = spec_of(write_spec, spec.source[0], "gpt-4o", system, provider.url, detail="brief", name="short")
        monkeypatch.setattr("sightflow.blocks.store.object_store.ObjectStore.read_starts", None)
        expected = the_estimate(planned(another))
    assert expected.items == 10 and "10 known from the catalog" in expected.known_by


def test_a_sample_is_spread_over_the_sizes_of_files_and_is_always_the_same() -> None:
    objects = pl.DataFrame({"uri": [f"s3://b/{k:04d}" for k in range(1000)], "bytes": [k % 10 for k in range(1000)]})
    chosen = sample(objects)
    assert chosen.height == SAMPLE and chosen.equals(sample(objects.sample(fraction=1, shuffle=True, seed=3)))
    assert set(chosen["bytes"].value_counts()["count"]) == {SAMPLE // 10}
