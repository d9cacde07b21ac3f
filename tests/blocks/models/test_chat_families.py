"""Which family weights are of, what serves it, and what is refused with the spec to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.models.chat.families import FAMILIES, UNFIT, family_of_id
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.registry import system_class
from sightflow.blocks.models.replies.box_forms import BOX_FORMS
from sightflow.blocks.models.systems.chat import Chat
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import ModelError, SpecError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.route import resolve_enrichments, route
from tests.tiny_models.chat_families import smolvlm

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)


def folder_of(tmp_path: Path, family: str) -> str:
    """A folder whose config names a family, with the least that weights have."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("id", "family"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3_vl_moe"),
        ("qwen/qwen2.5-vl-72b-instruct", "qwen2_5_vl"),
        ("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm"),
        ("google/gemma-3-4b-it", "gemma3"),
        ("google/gemma-3n-E2B-it", "gemma3n"),
        ("google/gemma-4-E2B-it", "gemma4"),
        ("OpenGVLab/InternVL3-1B-hf", "internvl"),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision"),
        ("llava-hf/llava-v1.6-mistral-7b-hf", "llava_next"),
        ("allenai/Molmo2-8B", "molmo2"),
        ("zai-org/GLM-4.5V", "glm4v_moe"),
        ("florence-community/Florence-2-base-ft", "florence2"),
        ("google/paligemma2-3b-mix-448", "paligemma"),
        ("Salesforce/blip-image-captioning-base", "blip"),
        ("Salesforce/instructblip-flan-t5-xl", "instructblip"),
        ("someone/of-their-own", None),
    ],
)
def test_an_id_names_its_family(id: str, family: str | None) -> None:
    assert family_of_id(id) == family


def test_every_form_of_boxes_in_the_table_is_one_that_is_read() -> None:
    assert {each.boxes for each in FAMILIES.values()} - {""} <= set(BOX_FORMS)


@pytest.mark.parametrize("family", UNFIT)
def test_a_family_that_is_not_asked_as_a_chat_is_refused_by_name_with_what_to_use(family: str, tmp_path: Path) -> None:
    model = Chat(id=folder_of(tmp_path, family), device="cpu")
    available = model.availability()
    assert not available.usable
    assert available.why.startswith(f"{family} ") and len(available.remedy) > 10
    with pytest.raises(ModelError, match=family):
        model.refuse_another_model(tmp_path)


@pytest.mark.parametrize(
    "id", ["florence-community/Florence-2-base-ft", "google/paligemma2-3b-mix-448", "google/pix2struct-base"]
)
def test_it_is_refused_by_its_id_too_before_anything_is_pulled_or_sent(id: str) -> None:
    far = Chat(id=id, engine="endpoint", endpoint_url="http://127.0.0.1:9/v1")
    for model in (Chat(id=id), far):
        assert "chat asks in a chat template" in model.availability().why


@pytest.mark.parametrize("family", ["never_heard_of", "bert", ""])
def test_what_transformers_does_not_map_is_refused(family: str, tmp_path: Path) -> None:
    available = Chat(id=folder_of(tmp_path, family)).availability()
    assert not available.usable
    assert ("image-text-to-text" in available.why) or ("names a model" in available.why)


@pytest.mark.parametrize(
    ("system", "family", "instead"),
    [
        ("qwen2-vl", "smolvlm", "{NAME: {system: chat, id: "),
        ("qwen2-vl", "gemma3", "{NAME: {system: chat, id: "),
        ("qwen2-vl", "florence2", "{florence-2: {id: "),
        ("qwen2-vl", "paligemma", "take a Gemma"),
        ("llava-next", "qwen3_vl", "{qwen2-vl: {id: "),
        ("llava-next", "llava_onevision", "{NAME: {system: chat, id: "),
        ("florence-2", "internvl", "{NAME: {system: chat, id: "),
        ("video-llava", "video_llama_3", "{NAME: {system: chat, id: "),
        ("instruct-blip", "molmo2", "{NAME: {system: chat, id: "),
    ],
)
def test_weights_of_another_family_are_refused_with_the_spec_that_serves_them(
    system: str, family: str, instead: str, tmp_path: Path
) -> None:
    adapter: Any = system_class(system)
    assert issubclass(adapter, OpenWeightsModel)
    model = adapter(id=folder_of(tmp_path, family))
    available = model.availability()
    assert not available.usable and repr(family) in available.why and instead in available.remedy
    spec = EnrichmentSpec(
        source="media", catalog="catalog", enrichments=[{"capability": "image captioning", "model": system}],
        models={system: {"id": model.id}},
    )  # fmt: skip
    with pytest.raises(SpecError) as error:
        resolve_enrichments(spec)
    assert instead in str(error.value)


def test_an_id_of_another_family_is_refused_before_anybody_is_told_to_pull_it() -> None:
    model: Any = system_class("qwen2-vl")(id="HuggingFaceTB/SmolVLM2-2.2B-Instruct")
    assert "system: chat, id: HuggingFaceTB/SmolVLM2-2.2B-Instruct" in model.availability().remedy
    absent = Chat(id="HuggingFaceTB/SmolVLM2-500M-Instruct", revision="abc").availability()
    assert absent.remedy.endswith("models pull chat --id HuggingFaceTB/SmolVLM2-500M-Instruct --revision abc")


def test_several_models_of_a_spec_go_by_their_names_and_answer_where_they_are_named(tmp_path: Path) -> None:
    weights = smolvlm(tmp_path / "tiny")
    models = {
        "fast": {"system": "chat", "id": str(weights), "max_new_tokens": 20},
        "good": {"system": "chat", "id": str(weights), "box_format": "thousandths"},
    }
    named = [
        {"capability": "image captioning", "model": "fast"},
        {"capability": "object detection", "labels": ["cat"], "media": "image", "model": "good"},
    ]
    spec = EnrichmentSpec(source="media", catalog="catalog", enrichments=named, models=models)
    routed = resolve_enrichments(spec)
    assert [each.resolved.systems for each in routed] == [("fast",), ("good",)]
    unpinned = EnrichmentSpec(source="media", catalog="catalog", enrichments=[CAPTION], models=models)
    candidates = {each.system: each for each in route(CAPTION, MediaKind.IMAGE, unpinned).candidates}
    for name in ("fast", "good", "chat"):
        assert not candidates[name].usable and candidates[name].why.startswith("unrated")
