"""Local systems in vLLM, for which a stand-in answers that is held to its published signatures, with transformers' own
class behind it, so that what is said is what the engine `local` says of the same pixels. vLLM itself: `make test-vllm`.
"""

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from sightflow.blocks.models.contract import GenerationRequest
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.registry import open_model, system_class
from sightflow.blocks.models.reply_forms import FreeText
from sightflow.blocks.models.systems import SYSTEMS, qwen2_vl
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, TextResult
from sightflow.schemas.failure import Cause, ModelError, SpecError
from sightflow.schemas.vision import VisionReply, VisionRequest
from tests.loopback import fake_vllm
from tests.loopback.fake_vllm import RECORDED, Seen
from tests.tiny_models import llava_next, qwen_vl
from tests.tiny_models.families import noise, noisy_video, request

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="What colour is it?", name="ask")
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="Is there a box?", choices=("yes", "no"), name="choose"
)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("box", "star"))
GROUND = Enrichment(capability=Capability.VISUAL_GROUNDING, phrases=("a red circle",))
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)
SIZES = [(90, 70), (33, 120)]
LIMIT = 6
ADAPTERS: dict[str, type[OpenWeightsModel]] = {"llava": LlavaNext} | dict.fromkeys(qwen_vl.GENERATIONS, Qwen2VL)
EACH = pytest.mark.parametrize("family", ADAPTERS)
QWEN = pytest.mark.parametrize("family", qwen_vl.GENERATIONS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    built = {name: qwen_vl.build(folder / name, name) for name in qwen_vl.GENERATIONS}
    return built | {"llava": llava_next.build(folder / "llava")}


@pytest.fixture(scope="module", autouse=True)
def vocabularies_are_read_once() -> Iterator[None]:
    """Qwen's 151,643 tokens take seconds to read: processors of one folder share them, and nothing else."""
    read: dict[str, Any] = {}
    load = AutoProcessor.from_pretrained

    def loaded(folder: Any, **how: Any) -> Any:
        if str(folder) not in read:
            read[str(folder)] = load(folder, **how)
        processor = copy.copy(read[str(folder)])
        for part in ("image_processor", "video_processor"):
            if hasattr(processor, part):
                setattr(processor, part, copy.deepcopy(getattr(processor, part)))
        return processor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoProcessor, "from_pretrained", loaded)
        yield


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seen:
    # Marked boxes are held to their form by transformers alone, since that form speaks of the tokens of a tokenizer.
    monkeypatch.setattr(qwen2_vl, "marked_form", lambda subject=None: FreeText())
    return fake_vllm.install(monkeypatch, tmp_path / "installed")


def both(folders: dict[str, Path], family: str, **changes: Any) -> tuple[Any, Any]:
    """One adapter with the engine `local` and with vLLM."""
    settings = {"id": str(folders[family]), "max_new_tokens": LIMIT} | changes
    return ADAPTERS[family](device="cpu", **settings), ADAPTERS[family](engine="vllm", **settings)


def said(replies: list[VisionReply]) -> list[Any]:
    return [(r.uri, r.enrichment, r.outcome, r.raw_reply, r.usage) for r in replies]


def asked_of(family: str, video: bool = True) -> list[VisionRequest]:
    about_images = (CAPTION, CHOOSE, ASK, GROUND) if family == "llava" else (CAPTION, CHOOSE, DETECT, GROUND)
    requests = [request(e, noise(*size), f"s3://b/{size}") for size in SIZES for e in about_images]
    if family != "llava" and video:
        requests += [request(e, noisy_video(n, 120, 90)) for n in (1, 3, 8) for e in (VIDEO, CHOOSE)]
    return requests


def answers_of_the_engine(model: Any, *requests: VisionRequest) -> list[VisionReply]:
    """What comes of whole requests, also where the model's loop would take a video apart."""
    prompts = [model.prompts(each.enrichment, each.media.kind) for each in requests]
    batch = [GenerationRequest(each, prompt) for each, asked in zip(requests, prompts, strict=True) for prompt in asked]
    outputs = iter(model.open_engine().generate(batch))
    return [model.reply(r, [(p, next(outputs)) for p in asked]) for r, asked in zip(requests, prompts, strict=True)]


# --- what is said -------------------------------------------------------------------------------


@EACH
def test_the_same_weights_say_in_vllm_what_they_say_in_transformers(
    vllm: Seen, folders: dict[str, Path], family: str
) -> None:
    here, there = both(folders, family)
    requests = asked_of(family)
    wanted = said(here.run(requests))
    assert said(there.run(requests)) == wanted
    assert len({str(each) for each in wanted}) > len(wanted) / 3
    (settings,) = vllm.settings
    assert settings["enable_prefix_caching"] is True
    assert settings["limit_mm_per_prompt"] == ({"image": 1} if family == "llava" else {"image": 1, "video": 1})


@QWEN
def test_a_limit_on_pixels_is_vllm_s_too(vllm: Seen, folders: dict[str, Path], family: str) -> None:
    here, there = both(folders, family, max_pixels=10_000)
    requests = [request(CAPTION, noise(250, 190)), *(request(VIDEO, noisy_video(n, 300, 200)) for n in (1, 5))]
    assert said(there.run(requests)) == said(here.run(requests))
    unlimited, _ = both(folders, family)
    for asked in requests:
        (wide,), (limited,) = unlimited.run([asked]), there.run([asked])
        assert wide.usage.input_tokens > limited.usage.input_tokens


def test_a_box_in_pixels_is_read_in_those_that_vllm_s_processor_makes(vllm: Seen, folders: dict[str, Path]) -> None:
    _, model = both(folders, "qwen2_5_vl", max_pixels=12_000)
    model.prepare()
    for size in ((640, 480), (61, 247), (300, 300)):
        asked = request(DETECT, noise(*size))
        told = model.processor_overrides(asked.media)["images_kwargs"]
        processor = AutoProcessor.from_pretrained(folders["qwen2_5_vl"])
        _, down, across = processor.image_processor(asked.media.pixels, **told)["image_grid_thw"][0]
        assert model.seen_size(size) == (14 * across, 14 * down)
        (region,) = model.parse(
            asked,
            model.prompts(DETECT, MediaKind.IMAGE)[0],
            f'[{{"bbox_2d": [0, 0, {14 * across}, {14 * down}], "label": "box"}}]',
        ).regions
        assert (region.box.x_max, region.box.y_max) == size


def test_special_tokens_are_kept_where_boxes_may_stand_in_them(vllm: Seen, folders: dict[str, Path]) -> None:
    _, model = both(folders, "qwen2_vl")
    model.run([request(DETECT, noise(60, 60)), request(CAPTION, noise(60, 60))])
    assert len(vllm.sampled) > 1
    assert [each.skip_special_tokens for each in vllm.sampled] == [*[False] * (len(vllm.sampled) - 1), True]
    assert all(each.spaces_between_special_tokens is False for each in vllm.sampled)


def test_choices_are_enforced_and_a_reply_without_an_end_is_truncated(vllm: Seen, folders: dict[str, Path]) -> None:
    _, model = both(folders, "qwen2_vl")
    requests = [request(e, noise(56, 56, seed)) for seed in range(4) for e in (CHOOSE, ASK)]
    replies = model.run(requests)
    assert {reply.outcome.text for reply in replies[::2]} <= set(CHOOSE.choices)
    cut = [reply for reply in replies[1::2] if reply.failure]
    assert cut and all(reply.failure.cause is Cause.TRUNCATED for reply in cut)
    assert all("raise max_new_tokens" in reply.failure.message for reply in cut)


def test_a_context_that_is_full_before_the_reply_s_limit_says_what_to_raise(
    vllm: Seen, folders: dict[str, Path]
) -> None:
    whole, _ = both(folders, "qwen2_vl", max_new_tokens=64)
    asked = request(ASK, noise(56, 56))
    (reply,) = whole.run([asked])
    assert reply.usage.output_tokens > 2
    _, model = both(folders, "qwen2_vl", max_new_tokens=64, max_model_len=reply.usage.input_tokens + 2)
    (short,) = model.run([asked])
    assert short.failure and short.failure.cause is Cause.TRUNCATED
    assert "raise max_model_len" in short.failure.message


# --- what is put --------------------------------------------------------------------------------


def test_what_is_asked_of_one_object_stands_together(vllm: Seen, folders: dict[str, Path]) -> None:
    _, model = both(folders, "qwen2_5_vl")
    media = [noise(60, 60), noise(84, 60), noisy_video(2)]
    requests = [request(e, m, f"s3://b/{k}") for e in (ASK, CHOOSE) for k, m in enumerate(media)]
    replies = model.run(requests)
    assert [(r.uri, r.enrichment) for r in replies] == [(r.uri, r.enrichment.name) for r in requests]
    (prompts,) = vllm.calls
    shown = [id(next(iter(prompt["multi_modal_data"].values()))) for prompt in prompts]
    assert shown == [shown[k] for k in (0, 0, 2, 2, 4, 4)] and len(set(shown)) == 3


def test_regions_of_a_film_are_asked_frame_by_frame_and_a_frame_s_questions_stand_together(
    vllm: Seen, folders: dict[str, Path]
) -> None:
    here, there = both(folders, "qwen2_vl")
    video = noisy_video(3)
    requests = [request(DETECT, video), request(GROUND, video)]
    assert said(there.run(requests)) == said(here.run(requests))
    shown = [id(prompt["multi_modal_data"]["image"]) for prompt in vllm.calls[0]]
    assert shown == [
        id(frame.pixels if hasattr(frame, "pixels") else frame) for frame in video.frames for _ in range(3)
    ]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_bad_item_costs_its_neighbours_nothing(vllm: Seen, folders: dict[str, Path], family: str) -> None:
    _, model = both(folders, family, max_model_len=200)
    good = [request(CHOOSE, noise(60, 60, seed), f"s3://b/{seed}") for seed in range(5)]
    wanted = said(model.run(good))
    vllm.calls.clear()
    long = replace(good[0], uri="long", enrichment=ASK.model_copy(update={"question": "what is it? " * 90}))
    holds = model.placeholders()[0]
    odd = replace(good[1], uri="odd", enrichment=ASK.model_copy(update={"question": f"what is {holds}?"}))
    requests = [good[0], odd, *good[1:3], long, *good[3:]]
    replies = model.run(requests)
    assert [reply.uri for reply in replies] == [r.uri for r in requests]
    assert said([r for r in replies if r.uri not in ("odd", "long")]) == wanted
    failures = {r.uri: r.failure for r in replies if r.failure and r.uri in ("odd", "long")}
    assert failures["long"].cause is Cause.TOO_LARGE and "maximum model length of 200" in failures["long"].message
    assert failures["odd"].cause is Cause.MODEL and "stands for the media" in failures["odd"].message
    assert [len(call) for call in vllm.calls] == [6, 3, 1, 2, 1, 1, 3]  # halved around the one that is too long


def test_a_film_for_a_system_that_sees_none_and_a_picture_of_absurd_shape_are_their_own_failures(
    vllm: Seen, folders: dict[str, Path]
) -> None:
    _, llava = both(folders, "llava")
    llava.prepare()
    replies = answers_of_the_engine(llava, request(ASK, noisy_video(2)), request(CHOOSE, noise(60, 60)))
    assert replies[0].failure and replies[0].failure.cause is Cause.UNSUPPORTED
    assert isinstance(replies[1].outcome, TextResult)
    _, qwen = both(folders, "qwen2_vl")
    replies = qwen.run([request(CHOOSE, noise(60, 60)), request(ASK, noise(700, 3))])
    assert replies[1].failure and replies[1].failure.cause is Cause.UNSUPPORTED
    assert isinstance(replies[0].outcome, TextResult)


def test_nothing_but_bad_items_is_not_put_at_all(vllm: Seen, folders: dict[str, Path]) -> None:
    _, model = both(folders, "qwen2_vl")
    (reply,) = model.run([request(ASK, noise(700, 3))])
    assert reply.failure and vllm.calls == []


def test_an_engine_that_dies_says_so_and_is_started_anew(vllm: Seen, folders: dict[str, Path]) -> None:
    _, model = both(folders, "qwen2_vl")
    model.prepare()
    vllm.dies = True
    with pytest.raises(ModelError, match="vLLM's engine died"):
        model.run([request(CHOOSE, noise(60, 60))])
    (reply,) = model.run([request(CHOOSE, noise(60, 60))])
    assert isinstance(reply.outcome, TextResult)
    assert len(vllm.settings) == 2


# --- settings -----------------------------------------------------------------------------------


def test_without_vllm_it_says_how_to_install_it(folders: dict[str, Path]) -> None:
    assert "vllm" not in sys.modules
    _, model = both(folders, "qwen2_vl")
    available = model.availability()
    assert not available.usable and "pip install 'sightflow[vllm]'" in available.remedy
    with pytest.raises(ModelError, match=r"vLLM is not installed; run: pip install"):
        model.prepare()


def test_vllm_without_a_gpu_is_not_usable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folders: dict[str, Path]
) -> None:
    about = tmp_path / "vllm-0.33.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm\nVersion: 0.33.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, model = both(folders, "qwen2_vl")
    assert "finds no GPU" in model.availability().why
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert model.availability().usable


def test_installed_it_is_usable_where_the_weights_are(vllm: Seen, folders: dict[str, Path], tmp_path: Path) -> None:
    assert both(folders, "qwen2_vl")[1].availability().usable
    absent = Qwen2VL(id=str(tmp_path / "absent"), engine="vllm").availability()
    assert not absent.usable and "not on this machine" in absent.why


def test_what_keeps_vllm_from_starting_is_told_with_what_to_do(
    vllm: Seen, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm as package

    def no_room(**settings: Any) -> None:
        raise ValueError("To serve at least one request, 3.50 GiB KV cache is needed, larger than the available 1.20")

    monkeypatch.setattr(package, "LLM", no_room)
    with pytest.raises(ModelError, match=r"3\.50 GiB KV cache is needed.*lower max_model_len"):
        both(folders, "qwen2_vl")[1].prepare()


# Of chat the id decides: vLLM says itself which it has.
OF_THE_TABLE = [name for name in SYSTEMS if hasattr(system_class(name), "supports_vllm") and name != "chat"]


@pytest.mark.parametrize("system", OF_THE_TABLE)
def test_only_systems_that_vllm_has_can_be_asked_of_it(system: str) -> None:
    model: Any = open_model(system)
    has = model.weights_class in RECORDED["architectures"]
    assert model.supports_vllm is has
    if has:
        assert open_model(system, {"engine": "vllm"})
        return
    with pytest.raises(SpecError, match=rf"vLLM has no {system}; engine: local runs it, engine: endpoint"):
        open_model(system, {"engine": "vllm"})


@pytest.mark.parametrize("generation", qwen_vl.GENERATIONS)
def test_every_generation_of_qwen_is_one_that_vllm_has(generation: Any) -> None:
    assert Qwen2VL(generation=generation).weights_class in RECORDED["architectures"]


def test_what_vllm_decides_itself_cannot_be_set() -> None:
    for wrong in ({"device": "cuda:1"}, {"placement": "accelerate"}, {"attention": "eager"}):
        with pytest.raises(SpecError, match="CUDA_VISIBLE_DEVICES"):
            open_model("qwen2-vl", {"engine": "vllm"} | wrong)


def test_the_engine_is_part_of_the_recipe_and_how_much_it_may_use_is_not(folders: dict[str, Path]) -> None:
    here, there = both(folders, "qwen2_vl")
    other = Qwen2VL(id=str(folders["qwen2_vl"]), engine="vllm", max_new_tokens=LIMIT, gpu_memory_utilization=0.5)
    recipes = [model.recipe(CAPTION, MediaKind.IMAGE) for model in (here, there, other)]
    assert recipes[0] != recipes[1] == recipes[2]
    assert there.runs_at_once == 1 and not there.hosted and there.objects_at_once == 128
