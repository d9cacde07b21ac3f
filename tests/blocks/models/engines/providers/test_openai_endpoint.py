"""Local systems served elsewhere: a real `transformers serve`, and a loopback server that holds to OpenAI's types."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

from sightflow.blocks.models.engines.providers.openai_endpoint import is_private_endpoint
from sightflow.blocks.models.open_weights_model import OpenWeightsModel
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TextResult
from sightflow.schemas.failure import Cause, ModelError, SpecError
from sightflow.schemas.media import DecodedImage
from sightflow.schemas.policy import Policy
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.hosted_systems import image_with_box, seen_box
from tests.loopback.server import Received, Say, Status, in_turn
from tests.loopback.virtual_clock import VirtualClock
from tests.tiny_models import llava_next, qwen_vl
from tests.tiny_models.families import noise, noisy_video, request

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="What colour is it?", name="ask")
CHOOSE = Enrichment(
    capability=Capability.VISUAL_QUESTION_ANSWERING, question="Is there a box?", choices=("yes", "no"), name="choose"
)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION, labels=("box",))
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)
KEY = "sk-Secret0123456789-VeryPrivate"
LIMIT = 8


# --- a real server ------------------------------------------------------------------------------


@dataclass
class Served:
    """A `transformers serve` process and the folders that it can load."""

    url: str
    folders: dict[str, Path]

    def model(self, adapter: type[OpenWeightsModel], name: str, **changes: Any) -> Any:
        settings = {"id": str(self.folders[name]), "engine": "endpoint", "endpoint_url": self.url}
        return adapter(**(settings | {"max_new_tokens": LIMIT} | changes))


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    folders = {"llava": llava_next.build(folder / "llava")}
    folders["qwen2_5_vl"] = qwen_vl.build(folder / "qwen2_5_vl", "qwen2_5_vl")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hub")}
    program = Path(sys.executable).parent / "transformers"
    for _ in range(5):  # somebody else may take the port between its choice and its use
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        with (folder / "log").open("wb") as log:
            command = [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 200
            while process.poll() is None and time.monotonic() < deadline:
                if answers(f"http://127.0.0.1:{port}/health"):
                    yield Served(f"http://127.0.0.1:{port}/v1", folders)
                    return
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    pytest.fail((folder / "log").read_text()[-2000:])


@pytest.mark.parametrize(("adapter", "name"), [(LlavaNext, "llava"), (Qwen2VL, "qwen2_5_vl")])
def test_a_real_server_says_what_the_same_weights_say_in_this_process(
    served: Served, adapter: type[OpenWeightsModel], name: str
) -> None:
    # Sizes on the grid of the Qwen processors: others are resized before they are sent, by another filter.
    requests = [
        request(e, noise(w, h), f"s3://b/{w}") for w, h in ((112, 84), (56, 140), (84, 84)) for e in (CAPTION, ASK)
    ]
    here = adapter(id=str(served.folders[name]), max_new_tokens=LIMIT, device="cpu")
    there = served.model(adapter, name, max_concurrency=6)
    for near, far in zip(here.run(requests), there.run(requests), strict=True):
        assert (far.uri, far.enrichment, far.system) == (near.uri, near.enrichment, near.system)
        assert (far.raw_reply or "").strip() == (near.raw_reply or "").strip()
        assert far.usage == near.usage
        assert type(far.outcome) is type(near.outcome)


def test_a_real_server_that_cannot_enforce_choices_is_held_to_them(served: Served) -> None:
    model = served.model(Qwen2VL, "qwen2_5_vl")
    for reply in model.run([request(CHOOSE, noise(56, 56, seed)) for seed in range(3)]):
        if isinstance(reply.outcome, TextResult):
            assert reply.outcome.text in CHOOSE.choices
        else:
            assert reply.failure and reply.failure.cause in (Cause.MALFORMED, Cause.TRUNCATED)


def test_a_real_server_is_found_ready(served: Served) -> None:
    assert served.model(Qwen2VL, "qwen2_5_vl").availability().usable


# --- a server on loopback ----------------------------------------------------------------------


def connect(server: EndpointOnLoopback, adapter: type[OpenWeightsModel] = Qwen2VL, **changes: Any) -> Any:
    settings = {"id": "Qwen/Qwen2-VL-2B-Instruct", "engine": "endpoint", "endpoint_url": server.url}
    model = adapter(**(settings | changes))
    model.open_engine().clock = VirtualClock()
    model.open_engine()._client = model.open_engine().connect()  # whether it is there is tried elsewhere
    return model


def boxed(size: tuple[int, int], box: tuple[int, int, int, int]) -> DecodedImage:
    return DecodedImage(image_with_box(size, box), *size, "0" * 64)


def sees_the_box(generation: str) -> Any:
    """A perfect model of a generation, which tells where the box is in the picture that it was sent."""

    def behave(received: Received) -> Say:
        image = received.images[0]
        x_min, y_min, x_max, y_max = (round(n) for n in seen_box(image))
        if generation == "qwen2_5_vl":
            return Say(json.dumps([{"bbox_2d": [x_min, y_min, x_max, y_max], "label": "box"}]))
        across, down = 1000 / image.width, 1000 / image.height
        numbers = [round(n) for n in (x_min * across, y_min * down, x_max * across, y_max * down)]
        if generation == "qwen3_vl":
            return Say(json.dumps([{"bbox_2d": numbers, "label": "box"}]))
        marks = "<|box_start|>({},{}),({},{})<|box_end|>".format(*numbers)
        return Say(f"<|object_ref_start|>box<|object_ref_end|>{marks}")

    return behave


@pytest.mark.parametrize("generation", qwen_vl.GENERATIONS)
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (2500, 1800), (61, 47)], ids=str)
def test_a_box_found_far_away_is_at_its_place_in_the_original(generation: str, size: tuple[int, int]) -> None:
    width, height = size
    box = (width // 5, height // 4, width // 2, height * 3 // 4)
    with EndpointOnLoopback(sees_the_box(generation)) as server:
        (reply,) = connect(server, generation=generation).run([request(DETECT, boxed(size, box))])
    assert isinstance(reply.outcome, RegionsResult), reply.outcome
    (region,) = reply.outcome.regions
    found = (region.box.x_min, region.box.y_min, region.box.x_max, region.box.y_max)
    sent = server.received[0].images[0]
    step = max(width / sent.width, height / sent.height, width / 1000, height / 1000)
    assert found == pytest.approx(box, abs=1.5 * step)
    assert server.complaints == []


def test_a_server_that_can_is_told_to_enforce_choices_and_to_keep_special_tokens() -> None:
    with EndpointOnLoopback(lambda received: Say('{"answer": "no"}')) as server:
        (reply,) = connect(server).run([request(CHOOSE, noise(56, 56))])
    assert reply.outcome == TextResult("no")
    body = server.received[0].body
    assert body["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"] == ["yes", "no"]
    assert body["skip_special_tokens"] is False
    assert (body["temperature"], body["repetition_penalty"]) == (0.0, 1.0)


def test_a_server_that_cannot_is_asked_without_and_only_the_first_request_finds_out() -> None:
    with EndpointOnLoopback(lambda received: Say("Yes."), knows_more=False) as server:
        model = connect(server, max_concurrency=1)
        replies = model.run([request(CHOOSE, noise(56, 56, seed)) for seed in range(4)])
    assert [reply.outcome for reply in replies] == [TextResult("yes")] * 4
    assert len(server.complaints) == 1 and len(server.received) == 4


def test_a_request_that_is_to_blame_itself_is_sent_no_third_time() -> None:
    with EndpointOnLoopback(lambda received: Status(400, "too_long", "the context is 100 tokens")) as server:
        model = connect(server)
        (reply,) = model.run([request(ASK, noise(56, 56))])
        assert reply.failure and "the context is 100 tokens" in reply.failure.message
        assert len(server.received) == 2
        assert model.open_engine().takes_extras is None


def test_an_answer_outside_the_choices_is_asked_about_once_more_and_never_kept() -> None:
    with EndpointOnLoopback(lambda received: Say("perhaps")) as server:
        (reply,) = connect(server).run([request(CHOOSE, noise(56, 56))])
    assert reply.failure and reply.failure.cause is Cause.MALFORMED
    assert [received.is_repair for received in server.received] == [False, True]


def test_many_requests_are_in_flight_and_each_gets_its_own_answer() -> None:
    together = threading.Barrier(8)

    def behave(received: Received) -> Say:
        if received.number:  # the first goes alone, to try the key
            together.wait(timeout=60)
        return Say(f"{received.images[0].size}")

    media = [noise(56 + 28 * k, 84) for k in range(17)]
    with EndpointOnLoopback(behave) as server:
        model = connect(server, max_concurrency=8)
        replies = model.run([request(CAPTION, m, f"s3://b/{k}") for k, m in enumerate(media)])
    assert [reply.outcome for reply in replies] == [TextResult(str(m.pixels.size)) for m in media]
    assert server.most_in_flight == 8


def test_a_busy_server_is_asked_again() -> None:
    with EndpointOnLoopback(in_turn(Status(503), Status(429, headers={"Retry-After": "7"}), Say("a box"))) as server:
        model = connect(server)
        (reply,) = model.run([request(CAPTION, noise(56, 56))])
    assert reply.outcome == TextResult("a box")
    assert any(wait >= 7 for wait in model.open_engine().clock.waits)


def test_a_refused_key_or_an_id_that_is_not_served_ends_the_run_with_words() -> None:
    for status, words in ((401, "SIGHTFLOW_ENDPOINT_KEY"), (404, "Qwen/Qwen2-VL-2B-Instruct is not served there")):
        with EndpointOnLoopback(lambda received, status=status: Status(status)) as server:
            model = connect(server, endpoint_key=SecretStr(KEY))
            with pytest.raises(ModelError, match=words) as error:
                model.run([request(CAPTION, noise(56, 56, seed)) for seed in range(5)])
            assert len(server.received) == 1
            assert "successor" not in str(error.value) and KEY not in str(error.value)


def test_a_reply_that_was_cut_off_is_truncated() -> None:
    with EndpointOnLoopback(lambda received: Say("a long st", "truncated")) as server:
        (reply,) = connect(server, max_new_tokens=3).run([request(CAPTION, noise(56, 56))])
    assert reply.failure and reply.failure.cause is Cause.TRUNCATED
    assert server.received[0].body["max_tokens"] == 3


def test_a_film_is_sent_as_frames_with_their_times_and_regions_are_asked_frame_by_frame() -> None:
    video = noisy_video(3, 84, 56, spacing=0.5)
    with EndpointOnLoopback(lambda received: Say("a film")) as server:
        (reply,) = connect(server).run([request(VIDEO, video)])
    assert reply.outcome == TextResult("a film")
    assert len(server.received[0].images) == 3
    assert "Frame 2, at 0.50 s:" in server.received[0].texts
    with EndpointOnLoopback(lambda received: Say("none")) as server:
        (reply,) = connect(server).run([request(DETECT, video)])
    assert [len(received.images) for received in server.received] == [1, 1, 1]
    assert reply.outcome == RegionsResult(())


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("https://192.168.7.9:8443/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://vllm.models.svc.cluster.local/v1", True),
        ("https://8.8.8.8/v1", False),
        ("https://models.example.com/v1", False),
        ("https://localhost.example.com/v1", False),
    ],
)
def test_media_stay_near_or_the_policy_for_hosted_systems_holds(url: str, near: bool) -> None:
    from sightflow.tasks.route import _forbidden_reason

    assert is_private_endpoint(url) is near
    model = Qwen2VL(engine="endpoint", endpoint_url=url)
    assert model.hosted is not near
    why = _forbidden_reason(model, Policy(hosted="deny"), 0.0)
    assert (why is None) is near


def test_an_address_that_holds_a_name_is_refused_and_deceives_nobody() -> None:
    deceiving = "https://127.0.0.1@models.example.com/v1"
    assert not is_private_endpoint(deceiving)
    with pytest.raises(ValueError, match="holds a user name or a password"):
        Qwen2VL(engine="endpoint", endpoint_url=deceiving)


def test_an_endpoint_is_ready_if_it_answers_and_takes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGHTFLOW_ENDPOINT_KEY", raising=False)
    settings: dict[str, Any] = {"id": "me/mine", "engine": "endpoint"}
    with EndpointOnLoopback(lambda received: Say(), lists=["me/mine"], key=KEY) as server:
        refused = Qwen2VL(endpoint_url=server.url, **settings).availability()
        assert not refused.usable and "SIGHTFLOW_ENDPOINT_KEY" in refused.remedy
        assert Qwen2VL(endpoint_url=server.url, endpoint_key=SecretStr(KEY), **settings).availability().usable
        monkeypatch.setenv("SIGHTFLOW_ENDPOINT_KEY", KEY)
        assert Qwen2VL(endpoint_url=server.url, **settings).availability().usable
        server.lists = ["another/one"]
        assert "it lists: another/one" in Qwen2VL(endpoint_url=server.url, **settings).availability().why
        server.lists = None
        assert Qwen2VL(endpoint_url=server.url, **settings).availability().usable
        gone = server.url
    dead = Qwen2VL(endpoint_url=gone, **settings)
    assert not dead.availability().usable and "vllm serve me/mine" in dead.availability().remedy
    with pytest.raises(ModelError, match="no server answers"):
        dead.prepare()


def test_a_key_is_never_shown_and_never_stands_in_a_spec() -> None:
    settings = {"engine": "endpoint", "endpoint_url": "http://localhost:1/v1"}
    model = Qwen2VL(endpoint_key=SecretStr(KEY), **settings)  # type: ignore[arg-type]
    assert KEY not in repr(model) + str(model.model_dump()) + model.model_dump_json()
    with pytest.raises(SpecError, match="a spec holds no keys"):
        open_model("qwen2-vl", settings | {"endpoint_key": KEY})


def test_an_endpoint_needs_its_url_and_is_another_recipe() -> None:
    with pytest.raises(SpecError, match="needs endpoint_url"):
        open_model("llava-next", {"engine": "endpoint"})
    near = Qwen2VL().recipe(CAPTION, MediaKind.IMAGE)
    far = Qwen2VL(engine="endpoint", endpoint_url="http://a/v1").recipe(CAPTION, MediaKind.IMAGE)
    moved = Qwen2VL(engine="endpoint", endpoint_url="http://b/v1").recipe(CAPTION, MediaKind.IMAGE)
    assert near != far == moved


def test_a_picture_of_absurd_shape_is_not_even_sent() -> None:
    with EndpointOnLoopback(lambda received: Say("yes")) as server:
        media = DecodedImage(Image.new("RGB", (3000, 2)), 3000, 2, "0" * 64)
        (reply,) = connect(server).run([request(CAPTION, media)])
    assert reply.failure and reply.failure.cause is Cause.UNSUPPORTED
    assert server.received == []
