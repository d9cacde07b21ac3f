"""The weights of the local systems: fetched with words that help, and refused before they do harm."""

import json
import os
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaNextForConditionalGeneration

from sightflow.blocks.models.engines.transformers import device, engine
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.systems.instruct_blip import InstructBlip
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.blocks.models.weights import count_numbers
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, TextResult
from sightflow.schemas.failure import ModelError
from tests.loopback.hub_api import COMMIT, HubOnLoopback
from tests.tiny_models import instruct_blip, llava_next, qwen_vl
from tests.tiny_models.families import loaded as module
from tests.tiny_models.families import noise, request

CHOOSE = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="what colour?", choices=("red", "green"))
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_next.build(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


# --- what fits ----------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused_with_both_figures_before_they_are_loaded(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlavaNext(id=str(tiny), device="cpu", dtype="float32")
    needed = model.open_engine().memory_needed(tiny, 4)
    assert needed == pytest.approx(count_numbers(tiny) * 4 * 1.2 / 2**30)
    monkeypatch.setattr(engine, "free_memory", lambda device: needed / 2)
    monkeypatch.setattr(engine, "_GIB", 2**20)  # so that the figures of tiny weights are not both 0.0
    figures = (model.open_engine().memory_needed(tiny, 4), needed / 2)
    with pytest.raises(
        ModelError, match=rf"needs about {figures[0]:.1f} GiB in 32-bit.*cpu has {figures[1]:.1f} GiB free"
    ):
        model.prepare()
    assert model.open_engine().weights is None


def test_half_the_numbers_bits_need_half_the_room(tiny: Path) -> None:
    model = LlavaNext(id=str(tiny))
    assert model.open_engine().memory_needed(tiny, 4) == 2 * model.open_engine().memory_needed(tiny, 2)
    assert LlavaNext().open_engine().memory_needed(tiny, 2) == LlavaNext.memory_gib  # the default weights: as declared


def test_numbers_are_counted_without_loading(tiny: Path) -> None:
    from safetensors.torch import load_file

    assert count_numbers(tiny) == sum(t.numel() for t in load_file(tiny / "model.safetensors").values())


def test_weights_that_do_not_fit_can_be_placed_by_accelerate(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "free_memory", lambda device: 0.0)
    model = LlavaNext(id=str(tiny), placement="accelerate", max_new_tokens=30)
    given: dict[str, Any] = {}
    load = LlavaNextForConditionalGeneration.from_pretrained
    spy = lambda *args, **kwargs: given.update(kwargs) or load(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(LlavaNextForConditionalGeneration, "from_pretrained", spy)
    model.prepare()
    assert given["device_map"] == "auto"
    assert isinstance(model.run([request(CHOOSE, noise(60, 40))])[0].outcome, TextResult)


def test_instruct_blip_can_be_placed_by_accelerate_too(tmp_path: Path) -> None:
    model = InstructBlip(id=str(instruct_blip.build(tmp_path / "tiny")), placement="accelerate", max_new_tokens=30)
    assert isinstance(model.run([request(CHOOSE, noise(60, 40))])[0].outcome, TextResult)


def test_the_host_s_free_memory_is_known() -> None:
    free = device.free_memory("cpu")
    assert free is not None and free > 0


# --- how they are loaded ------------------------------------------------------------------------


def test_on_a_cpu_weights_are_32_bit_and_both_can_be_overridden(tiny: Path) -> None:
    plain = LlavaNext(id=str(tiny), device="cpu")
    plain.prepare()
    assert module(plain).dtype == torch.float32
    other = LlavaNext(id=str(tiny), device="cpu", dtype="bfloat16", attention="eager")
    other.prepare()
    assert module(other).dtype == torch.bfloat16
    assert module(other).config._attn_implementation == "eager"
    assert isinstance(other.run([request(CHOOSE, noise(60, 40))])[0].outcome, TextResult)


def test_an_attention_that_is_not_installed_is_refused_in_words(tiny: Path) -> None:
    if __import__("importlib.util").util.find_spec("flash_attn"):
        pytest.skip("it is installed here")
    with pytest.raises(ModelError, match="FlashAttention"):
        LlavaNext(id=str(tiny), attention="flash_attention_2").prepare()


def test_the_dtype_is_part_of_the_recipe_and_the_device_is_not(tiny: Path) -> None:
    recipe = LlavaNext(id=str(tiny)).recipe(CAPTION, MediaKind.IMAGE)
    assert LlavaNext(id=str(tiny), dtype="float16").recipe(CAPTION, MediaKind.IMAGE) != recipe
    assert LlavaNext(id=str(tiny), device="cuda:1").recipe(CAPTION, MediaKind.IMAGE) == recipe


# --- what is refused ----------------------------------------------------------------------------


def test_weights_of_another_model_are_refused_and_not_filled_with_random_numbers(tiny: Path) -> None:
    with pytest.raises(ModelError, match="holds weights of 'llava_next', not of 'florence2'"):
        Florence2(id=str(tiny)).prepare()
    with pytest.raises(ModelError, match="holds weights of 'llava_next'; known: qwen2_vl"):
        Qwen2VL(id=str(tiny)).prepare()


def test_incomplete_weights_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "layers.1" in name)
    save_file({name: t for name, t in weights.items() if name != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the weights, e\.g\. "):
        LlavaNext(id=str(copy)).prepare()


def test_a_missing_file_of_a_sharded_checkpoint_is_named_before_anything_runs(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    available = LlavaNext(id=str(copy)).availability()
    assert not available.usable and "model-00002-of-00002.safetensors" in available.why


def test_pickled_weights_are_not_loaded(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    available = LlavaNext(id=str(copy)).availability()
    assert not available.usable and "only safetensors" in available.remedy
    with pytest.raises(ModelError, match="safetensors"):
        LlavaNext(id=str(copy)).prepare()


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"not weights at all"])
def test_a_broken_file_of_weights_is_refused_in_words(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is no safetensors file"):
        LlavaNext(id=str(copy)).prepare()


def test_what_is_not_asked_is_not_loaded(tiny: Path) -> None:
    """A plan, and a run of one model, start without the libraries of all the others."""
    program = (
        "import sys, sightflow.flows.enrich; from sightflow.blocks import LlavaNext; "
        f"available = LlavaNext(id={str(tiny)!r}).availability(); print(available.usable, "
        "*({'torch', 'transformers', 'openai', 'google.genai', 'dashscope', 'distributed'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


# --- pulling from a hub -------------------------------------------------------------------------


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubOnLoopback]:
    import huggingface_hub
    from huggingface_hub import constants

    with HubOnLoopback(tiny) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        huggingface_hub.utils.disable_progress_bars()
        yield hub


def test_weights_are_pulled_once_without_what_is_not_needed(hub: HubOnLoopback, tiny: Path) -> None:
    left_out = [tiny / name for name in ("pytorch_model.bin", "README.md", ".gitattributes")]
    for file in left_out:
        file.write_bytes(b"not needed")
    try:
        model = LlavaNext(id="owner/tiny", revision="main", max_new_tokens=30)
        assert model.availability().remedy == "run: sightflow models pull llava-next --id owner/tiny"
        folder = model.pull()
        assert folder.name == COMMIT
        assert not any((folder / file.name).exists() for file in left_out)
        assert model.availability().usable
        assert model.weights_digest() == f"owner/tiny@{COMMIT}"  # and not "main", which may be another tomorrow
        fetched = list(hub.fetched)
        model.pull()
        assert hub.fetched == fetched
        assert isinstance(model.run([request(CHOOSE, noise(60, 40))])[0].outcome, TextResult)
    finally:
        for file in left_out:
            file.unlink()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("only_files", [False, True])
def test_a_gated_repository_says_what_to_do(hub: HubOnLoopback, status: int, only_files: bool) -> None:
    refusal = (status, "GatedRepo")
    if only_files:
        hub.refuse_files = refusal
    else:
        hub.refuse = refusal
    with pytest.raises(ModelError, match="is gated; accept its licence on its page of the hub, then log in") as error:
        LlavaNext(id="owner/tiny", revision="main").pull()
    assert error.value.__suppress_context__


def test_an_id_or_a_revision_that_is_not_there_is_named(hub: HubOnLoopback) -> None:
    with pytest.raises(ModelError, match=r"the hub knows no nobody/nothing at revision main; check --id"):
        LlavaNext(id="nobody/nothing", revision="main").pull()
    with pytest.raises(ModelError, match="there is no owner/tiny at revision v9; check --revision"):
        LlavaNext(id="owner/tiny", revision="v9").pull()
    with pytest.raises(ModelError, match="the hub knows no"):
        LlavaNext(id="not a valid / id", revision="main").pull()


def test_a_folder_cannot_be_pulled(tiny: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; there is nothing to pull"):
        LlavaNext(id=str(tiny)).pull()


def test_a_hub_that_fails_is_told_in_words(hub: HubOnLoopback) -> None:
    hub.refuse = (500, "Internal")
    with pytest.raises(ModelError, match=r"broke off .*run the same command again"):
        LlavaNext(id="owner/tiny", revision="main").pull()


def pull_by_command(hub: HubOnLoopback, cache: Path, screen: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    program = Path(sys.executable).parent / "sightflow"
    command = [program, "models", "pull", "llava-next", "--id", "owner/tiny", "--revision", "main"]
    return subprocess.Popen(command, env=environment, stdout=screen, stderr=screen)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: HubOnLoopback, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 65536)
    hub.stop_after = (tiny / "model.safetensors").stat().st_size // 2
    folder = LlavaNext(id="owner/tiny", revision="main").pull()
    (asked,) = hub.ranges
    assert int(asked.removeprefix("bytes=").rstrip("-")) > 0
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_pull_that_was_killed_keeps_the_files_that_had_arrived_and_the_next_fetches_the_rest(
    tiny: Path, tmp_path: Path
) -> None:
    with HubOnLoopback(tiny) as hub, (tmp_path / "screen").open("wb") as screen:
        hub.stop_after, hub.hold = (tiny / "model.safetensors").stat().st_size // 2, True
        first = pull_by_command(hub, tmp_path, screen.fileno())
        assert hub.held.wait(timeout=120)
        others = {file.name for file in tiny.iterdir()} - {"model.safetensors"}
        while {file.name for file in tmp_path.rglob("snapshots/*/*")} < others:  # all but the one that hangs
            assert first.poll() is None
            time.sleep(0.05)
        first.kill()
        first.wait()
        hub.fetched.clear()
        assert pull_by_command(hub, tmp_path, screen.fileno()).wait(timeout=200) == 0
    assert hub.fetched == ["model.safetensors"]
    (weights,) = tmp_path.rglob("snapshots/*/model.safetensors")
    assert weights.read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_the_command_shows_its_progress_on_a_terminal(tiny: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with HubOnLoopback(tiny) as hub:
        pull = pull_by_command(hub, tmp_path, theirs)
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert pull.wait(timeout=200) == 0, shown
    os.close(ours)
    assert b"100%" in shown
    assert b"the weights are in" in shown


def test_qwen_generations_are_known_from_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    folder: Any = qwen_vl.build(tmp_path / "served", "qwen3_vl")
    with HubOnLoopback(folder) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        Qwen2VL(id="owner/tiny", revision="main").pull()
    assert Qwen2VL(id="owner/tiny", revision="main").known_generation == "qwen3_vl"


# --- what is said of them -----------------------------------------------------------------------


def test_a_notice_beside_the_weights_is_told_and_is_bounded(copy: Path) -> None:
    assert LlavaNext(id=str(copy)).notice == ""
    (copy / "notice.txt").write_bytes(b"It knows drawn shapes,\nand nothing else. \xff" + b"x" * 10_000)
    notice = LlavaNext(id=str(copy)).notice
    assert notice.startswith("It knows drawn shapes, and nothing else.")
    assert len(notice) <= 2000
    assert LlavaNext(id=str(copy / "absent")).notice == ""
