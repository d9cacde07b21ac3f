"""Batches of the local systems: whatever stands beside a request, its answer is that of a call of its own."""

import functools
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.contract import Generated, GenerationRequest
from sightflow.blocks.models.engines.transformers.chat_generation import ChatGenerator
from sightflow.blocks.models.engines.transformers.cpu_threads import chosen_threads, cpu_threads
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, TextResult
from sightflow.schemas.failure import Cause
from sightflow.schemas.vision import VisionReply, VisionRequest
from tests.tiny_models.families import FAMILIES, Family, generate, generator, noise, noisy_video, request, units
from tests.tiny_models.families import loaded as module

EACH = pytest.mark.parametrize("family", FAMILIES, ids=str)
CHOICES = ("red", "dark blue", "green", "yes", "no")
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="what colour is it ?", choices=CHOICES, name="choose"
)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="is it large or small ?", name="ask")
GROUND = Enrichment(
    capability=Capability.VISUAL_GROUNDING, phrases=("a red circle", "the small blue star left of the large square")
)
SIZES = [(60, 40), (33, 90), (90, 33), (28, 28), (5, 3), (120, 61)]
LIMIT = 12


class Loaded:
    """Each family, built and loaded once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: dict[str, OpenWeightsModel] = {}

    def __getitem__(self, family: Family) -> OpenWeightsModel:
        if family.name not in self.models:
            self.models[family.name] = load(family, self.folder / family.name)
        return self.models[family.name]


def load(family: Family, folder: Path, **changes: Any) -> OpenWeightsModel:
    if not folder.exists():
        family.build(folder)
    settings = {"id": str(folder), "max_new_tokens": LIMIT, "batch_size": 64, "device": "cpu"} | changes
    model = family.adapter(**settings)
    model.prepare()
    return model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("families"))


def everything_asked(model: OpenWeightsModel) -> list[VisionRequest]:
    requests = [
        request(enrichment, noise(*size), f"s3://b/{k}")
        for k, size in enumerate(SIZES)
        for enrichment in (CAPTION, CHOOSE, ASK, GROUND)
    ]
    if MediaKind.VIDEO in model.media_kinds:
        requests += [request(e, noisy_video(frames)) for frames in (1, 3, 8) for e in (VIDEO, CHOOSE)]
    return requests


def said(replies: Sequence[VisionReply]) -> list[Any]:
    return [(r.uri, r.enrichment, r.outcome, r.raw_reply, r.usage) for r in replies]


@EACH
def test_a_batch_says_exactly_what_single_calls_say(loaded: Loaded, family: Family) -> None:
    model = loaded[family]
    requests = everything_asked(model)
    single = [each for r in requests for each in said(model.run([r]))]
    assert len({str(s) for s in single}) > len(single) / 3  # the models say different things of different pictures
    assert said(model.run(requests)) == single
    order = random.Random(7).sample(range(len(requests)), len(requests))
    shuffled = said(model.run([requests[k] for k in order]))
    assert shuffled == [single[k] for k in order]


def test_a_model_computes_with_its_threads_and_the_next_one_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, seen = FAMILIES[0], []
    answer = ChatGenerator.generate

    def noted(self: Any, *arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return answer(self, *arguments)

    monkeypatch.setattr(ChatGenerator, "generate", noted)
    for threads in (2, None):
        assert load(family, tmp_path / "weights", threads=threads).run([request(CAPTION, noise(28, 28))])
    assert seen == [2, 1] and torch.get_num_threads() == 1


def test_a_thread_that_began_while_another_model_computed_does_not_compute_with_its_threads() -> None:
    def within() -> int:
        with cpu_threads(None):
            return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        with cpu_threads(3):
            assert pool.submit(torch.get_num_threads).result() == 3, "torch hands it on, for good"
        assert pool.submit(torch.get_num_threads).result() == 3
        assert pool.submit(within).result() == chosen_threads() == 1


@EACH
def test_one_unit_s_limit_is_its_own(loaded: Loaded, family: Family) -> None:
    model = loaded[family]
    some = units(model, request(CAPTION, noise(60, 40)), request(ASK, noise(33, 90)), request(GROUND, noise(28, 28)))
    limits = (2, 9, 1, 5)
    limited = [replace(u, prompt=replace(u.prompt, max_new_tokens=limits[k % 4])) for k, u in enumerate(some)]
    with torch.inference_mode():
        together = generate(model, limited)
        alone = [each for unit in limited for each in generate(model, [unit])]
    assert together == alone
    for unit, generated in zip(limited, together, strict=True):
        assert generated.usage.output_tokens <= unit.prompt.max_new_tokens
        if generated.truncated:
            assert generated.usage.output_tokens == unit.prompt.max_new_tokens


@EACH
def test_a_reply_without_an_end_is_truncated_and_one_with_an_end_is_not(loaded: Loaded, family: Family) -> None:
    model = loaded[family]
    (free,) = units(model, request(ASK, noise(60, 40)))
    (bound,) = units(model, request(CHOOSE, noise(60, 40)))
    cut = replace(free, prompt=replace(free.prompt, max_new_tokens=1))
    with torch.inference_mode():
        assert generate(model, [cut])[0].truncated
        assert not generate(model, [bound])[0].truncated
    one_token = family.adapter(id=model.id, max_new_tokens=1, device="cpu")
    one_token.prepare()
    reply = one_token.run([request(ASK, noise(60, 40))])[0]
    assert reply.failure and reply.failure.cause is Cause.TRUNCATED


@EACH
def test_choices_are_never_left_whatever_is_asked_beside_them(loaded: Loaded, family: Family) -> None:
    model = loaded[family]
    requests = [request(e, noise(w, h)) for w, h in SIZES for e in (CHOOSE, ASK)]
    replies = model.run(requests)
    for asked, reply in zip(requests, replies, strict=True):
        if asked.enrichment is CHOOSE:
            assert isinstance(reply.outcome, TextResult)
            assert reply.outcome.text in CHOICES


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6), min_size=2, max_size=5)
)
def test_any_words_can_be_choices(loaded: Loaded, words: list[str]) -> None:
    distinct = {word.strip().casefold(): word.strip() for word in words if word.strip()}
    if len(distinct) < 2:
        return
    choices = tuple(distinct.values())
    asked = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="which ?", choices=choices)
    llava = loaded[FAMILIES[0]]
    model = llava.model_copy(update={"max_new_tokens": 64})
    model.open_engine().adopt(module(llava), llava._processor)
    (reply,) = model.run([request(asked, noise(28, 28))])
    assert isinstance(reply.outcome, TextResult), reply.outcome
    assert reply.outcome.text in choices


@EACH
def test_what_a_checkpoint_recommends_for_sampling_changes_nothing(
    loaded: Loaded, family: Family, tmp_path: Path
) -> None:
    import json
    import shutil

    plain = loaded[family]
    folder = Path(shutil.copytree(plain.id, tmp_path / family.name))
    recommended = json.loads((folder / "generation_config.json").read_text())
    recommended |= {"repetition_penalty": 1.8, "no_repeat_ngram_size": 1, "do_sample": True, "temperature": 5.0}
    (folder / "generation_config.json").write_text(json.dumps(recommended))
    requests = [request(e, noise(w, h)) for w, h in SIZES[:3] for e in (CAPTION, ASK)]
    assert said(load(family, folder).run(requests)) == said(plain.run(requests))


@EACH
def test_a_prompt_with_the_model_s_own_placeholder_costs_only_its_own_item(loaded: Loaded, family: Family) -> None:
    model = loaded[family]
    token = model.placeholders()[0]
    odd = ASK.model_copy(update={"question": f"what is {token} ?"})
    replies = model.run([request(CHOOSE, noise(60, 40)), request(odd, noise(33, 90)), request(CHOOSE, noise(28, 28))])
    assert replies[1].failure and "stands for the media" in replies[1].failure.message
    assert [type(replies[k].outcome) for k in (0, 2)] == [TextResult, TextResult]


@EACH
def test_what_several_prompts_are_about_is_encoded_once(
    loaded: Loaded, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded[family]
    if model.prompt_conditioned_vision:
        pytest.skip("what it sees depends on the prompt")
    seen: list[int] = []
    places = {"image": "get_image_features", "video": "get_video_features"}
    for kind in model.media_kinds:
        owner = module(model).model
        encode = getattr(owner, places[kind])

        @functools.wraps(encode)
        def spied(*args: Any, encode: Any = encode, **kwargs: Any) -> Any:
            pixels = [*args, *(value for name, value in kwargs.items() if name.startswith("pixel_values"))]
            seen.append(pixels[0].shape[0])
            return encode(*args, **kwargs)

        monkeypatch.setattr(owner, places[kind], spied)
    media = [noise(60, 40), noise(33, 90)]
    if MediaKind.VIDEO in model.media_kinds:
        media += [noisy_video(4)]
    asked = [(m, e) for m in media for e in (ASK, CHOOSE)]
    together = said(model.run([request(e, m) for m, e in asked]))
    encoded = sum(seen)
    seen.clear()
    alone = [each for m, e in asked for each in said(model.run([request(e, m)]))]
    assert together == alone
    assert 2 * encoded == sum(seen)


class Starved:
    """Stands in the way of a generator: more than `room` units at once, or a unit about `greedy`, is out of memory."""

    def __init__(self, model: OpenWeightsModel, room: int, greedy: str = "") -> None:
        self.real, self.room, self.greedy = generator(model).generate, room, greedy
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[GenerationRequest], inputs: Any) -> list[Generated]:
        self.sizes.append(len(batch))
        if len(batch) > self.room or any(unit.request.uri == self.greedy for unit in batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.real(batch, inputs)


@EACH
def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    loaded: Loaded, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded[family]
    requests = [request(ASK, noise(40, 30, seed), f"s3://b/{seed}") for seed in range(7)]
    wanted = said(model.run(requests))
    starved = Starved(model, room=2)
    monkeypatch.setattr(generator(model), "generate", starved)
    assert said(model.run(requests)) == wanted
    assert starved.sizes == [7, 3, 1, 2, 2, 2]  # four would be more than the three that did not fit


@EACH
def test_only_the_item_that_does_not_fit_alone_is_lost(
    loaded: Loaded, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded[family]
    requests = [request(ASK, noise(40, 30, seed), f"s3://b/{seed}") for seed in range(5)]
    wanted = said(model.run(requests))
    monkeypatch.setattr(generator(model), "generate", Starved(model, room=5, greedy="s3://b/3"))
    replies = model.run(requests)
    assert replies[3].failure and replies[3].failure.cause is Cause.OUT_OF_MEMORY
    assert [said(replies)[k] for k in (0, 1, 2, 4)] == [wanted[k] for k in (0, 1, 2, 4)]


@EACH
def test_a_batch_is_made_ready_while_another_is_on_the_device(family: Family, loaded: Loaded) -> None:
    """Of two calls at once, the second one's pictures are made ready before the first one's batch has been answered."""
    model = load(family, loaded.folder / family.name)
    runs = generator(model)
    preprocess, answer = runs.preprocess, runs.generate
    answering, made = threading.Event(), threading.Event()
    overlapped: list[bool] = []

    def noted(units: Sequence[GenerationRequest]) -> Any:
        inputs = preprocess(units)
        if answering.is_set():
            made.set()
        return inputs

    def waited(units: Sequence[GenerationRequest], inputs: Any) -> list[Generated]:
        if not answering.is_set():
            answering.set()
            overlapped.append(made.wait(60))  # not asserted here: what fails here is tried again in halves
        return answer(units, inputs)

    runs.preprocess, runs.generate = noted, waited
    asked = everything_asked(model)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(model.run, asked[::2])
        assert answering.wait(60)
        second = pool.submit(model.run, asked[1::2])
        replies = [first.result(), second.result()]
    assert overlapped == [True], "no batch is made ready while another is on the device"
    plain = loaded[family]
    assert replies == [plain.run(asked[::2]), plain.run(asked[1::2])]


@EACH
def test_several_batches_are_computed_at_once_where_each_is_given_a_part_of_the_cores(
    family: Family, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loaded[family]
    asked = everything_asked(plain)
    both, met = threading.Barrier(2), []
    answer = ChatGenerator.generate

    def meeting(self: Any, *arguments: Any) -> Any:
        if len(met) < 2:
            with suppress(threading.BrokenBarrierError):  # what fails here would be tried again in halves
                both.wait(60)
                met.append(self)
        return answer(self, *arguments)

    monkeypatch.setattr(ChatGenerator, "generate", meeting)
    monkeypatch.setattr("sightflow.blocks.models.engines.transformers.engine.chosen_threads", lambda: 2)
    model = load(family, loaded.folder / family.name, threads=1, batch_size=4)
    assert model.runs_at_once == 3, "two on the cores, one that is made ready"
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(model.run, (asked[::2], asked[1::2])))
    assert len(met) == 2 and met[0].weights.model is not met[1].weights.model
    weights = [{tensor.data_ptr() for tensor in replica.weights.model.parameters()} for replica in met]
    assert weights[0] == weights[1], "the weights are in memory once"
    monkeypatch.setattr(ChatGenerator, "generate", answer)
    assert replies == [plain.run(asked[::2]), plain.run(asked[1::2])]
