"""One schema asked of every kind of engine: the same typed columns, whoever answered and in whatever form."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.catalog.sql_views import connect, read_wide
from sightflow.blocks.models.contract import Generated, GenerationRequest
from sightflow.blocks.models.engines.transformers.chat_generation import ChatGenerator
from sightflow.schemas.spec_reader import read_spec
from sightflow.tasks.runtime import loaded_models
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.hosted_systems import GEMINI, GPT, KEPT, KEY, QWEN, READ, RECEIPT, SMALL
from tests.loopback.server import Say
from tests.tasks.money.test_estimate_and_bill import done, planned
from tests.tiny_models import qwen_vl

AS_IT_IS = json.dumps(json.loads(KEPT))
FENCED = f"```json\n{json.dumps(json.loads(KEPT), indent=1)}\n```"
ANSWERS: dict[str, str] = {
    "chat here": AS_IT_IS,
    "endpoint": AS_IT_IS,
    "gpt-4o": READ,
    "gemini": READ,
    "qwen-vl-max": FENCED,
}
"""Strict modes write null for what is not there; others leave it out, or wrap it in a fence."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_vl.build(tmp_path_factory.mktemp("chat") / "weights", generation="qwen3_vl")


def columns(catalog: Catalog) -> dict[str, Any]:
    """What stands in the view, and of which type, by whatever reads it."""
    wide = read_wide(catalog).select("receipt")
    described = connect(catalog).execute("DESCRIBE SELECT receipt FROM catalog").fetchall()
    typed = connect(catalog).execute("SELECT receipt.shop, receipt.total, receipt.lines[1].count FROM catalog").df()
    assert isinstance(typed, pd.DataFrame)
    return {
        "polars": (wide.schema, wide.to_dicts()),
        "duckdb": described,
        "pandas": (typed.dtypes.to_dict(), typed.to_dict("records")),
    }


def test_whoever_is_asked_the_columns_are_the_same(
    tmp_path: Path, write_spec: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "DASHSCOPE_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setattr(loaded_models, "_LOADED", {})

    def generate(_self: Any, batch: Sequence[GenerationRequest], _inputs: Any) -> list[Generated]:
        return [Generated(ANSWERS["chat here"]) for _ in batch]

    monkeypatch.setattr(ChatGenerator, "generate", generate)
    (tmp_path / "media").mkdir()
    SMALL.save(tmp_path / "media/receipt.png")
    providers: dict[str, Callable[..., AbstractContextManager[Any]]] = {
        "chat here": lambda _: nullcontext(),
        "endpoint": partial(EndpointOnLoopback, lists=["receipts"]),
        **{system.name: system.on_loopback for system in (GPT, GEMINI, QWEN)},
    }
    found: dict[str, dict[str, Any]] = {}
    for name, on_loopback in providers.items():
        with on_loopback(lambda _, name=name: Say(ANSWERS[name])) as provider:
            system, settings = name, {"base_url": getattr(provider, "url", "")}
            if name == "chat here":
                system, settings = "mine", {"system": "chat", "id": str(weights), "device": "cpu"}
            elif name == "endpoint":
                system, settings = "mine", {"system": "chat", "engine": "endpoint", "endpoint_url": provider.url}
                settings |= {"id": "receipts"}
            spec = read_spec(
                write_spec(
                    f"{tmp_path}/media/*",
                    catalog=str(tmp_path / name),
                    models={system: settings},
                    enrichments=[
                        {"capability": "structured extraction", "name": "receipt", "schema": RECEIPT, "model": system}
                    ],
                    policy={"hosted": "allow", "max_quarantine_ratio": 1.0},
                )
            )
            (validated,) = done(planned(spec), spec)
        assert validated.failed.is_empty(), (name, validated.failed.to_dicts())
        catalog = Catalog(uri=spec.catalog)
        catalog.publish(validated.rows)
        (extracted,) = catalog.scan("enrichments").collect()["extracted"]
        assert json.loads(extracted) == json.loads(KEPT), name
        found[name] = columns(catalog)
    first, *others = found.values()
    assert all(each == first for each in others), found
    assert dict(first["polars"][0])["receipt"].to_schema() == {
        "day": pl.Date, "lines": pl.List(pl.Struct({"count": pl.Int64, "name": pl.String})), "paid": pl.String,
        "rating": pl.String, "shop": pl.String, "site": pl.String, "tip": pl.Float64, "total": pl.Float64,
    }  # fmt: skip
