"""The vendors' batch APIs by their real SDKs: a line says what a direct request says, and a batch begins once."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.models.contract import (
    BatchDeclined,
    BatchDelivery,
    BilledFailure,
    Generated,
    GenerationRequest,
    RemoteState,
)
from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.failure import Cause, Failure, ModelError
from tests.loopback.hosted_systems import (
    ALL,
    CAPTION,
    GEMINI,
    GEMINI_OLD,
    GPT,
    QWEN,
    QWEN_OLD,
    SYSTEMS,
    System,
    named,
    perfect,
    request,
)
from tests.loopback.server import LoopbackProvider, Received, Say, Status

BATCH = "0" * 31 + "b"


def generation_request(model: HostedModel, enrichment: Any = CAPTION) -> GenerationRequest:
    (prompt,) = model.prompts(enrichment, MediaKind.IMAGE)
    return GenerationRequest(request(enrichment), prompt)


def delivery_of(model: HostedModel) -> BatchDelivery:
    return model.open_engine().batch_delivery()


def sent(delivery: BatchDelivery, lines: list[bytes], folder: Path) -> str:
    file = folder / "requests.jsonl"
    file.write_bytes(b"".join(lines))
    return delivery.upload(file, BATCH)


def results(delivery: BatchDelivery, batch: str, folder: Path) -> dict[str, Any]:
    remote = delivery.look_up(batch)
    assert remote is not None
    found = {}
    for number, file in enumerate(remote.result_files):
        path = folder / f"results-{number}"
        assert delivery.download(file, path, 1 << 20)
        for line in path.read_bytes().splitlines():
            custom_id, output, _ = delivery.result(line)  # type: ignore[misc]
            found[custom_id] = output
    return found


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_what_comes_back_is_what_a_direct_request_is_answered_at_half_the_price(system: System, tmp_path: Path) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider)
        model.prepare()
        requests = {f"id-{k}": generation_request(model, enrichment) for k, enrichment in enumerate(ALL)}
        direct = dict(zip(requests, model.open_engine().generate(list(requests.values())), strict=True))
        delivery = delivery_of(model)
        lines = [delivery.line(custom_id, each).content for custom_id, each in requests.items()]
        batch = delivery.create(sent(delivery, lines, tmp_path), BATCH)
        found = results(delivery, batch.id, tmp_path)
        assert provider.complaints == []
    assert found.keys() == direct.keys()
    for custom_id, output in direct.items():
        batched = found[custom_id]
        assert isinstance(output, Generated) and isinstance(batched, Generated)
        assert (batched.text, batched.served_id, batched.transcript) == (
            output.text,
            output.served_id,
            output.transcript,
        )
        assert batched.usage.input_tokens == output.usage.input_tokens > 0
        assert batched.usage.cost_usd > 0
        assert batched.usage.cost_usd == pytest.approx(output.usage.cost_usd / 2)


def in_camel_case(value: Any) -> Any:
    """JSON with names as Google documents them: the SDK sends some as Python has them, and either is taken."""
    if isinstance(value, list):
        return [in_camel_case(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        re.sub(r"_([a-z])", lambda found: found[1].upper(), key): in_camel_case(each) for key, each in value.items()
    }


@pytest.mark.parametrize("system", [GPT, GEMINI, GEMINI_OLD], ids=named)
def test_a_line_holds_the_body_of_the_direct_request(system: System, tmp_path: Path) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider)
        delivery = delivery_of(model)
        for enrichment in ALL:
            each = generation_request(model, enrichment)
            model.open_engine().generate([each])
            line = json.loads(delivery.line("id", each).content)
            assert in_camel_case(line.get("body", line.get("request"))) == in_camel_case(provider.received[-1].body)


@pytest.mark.parametrize("system", [QWEN, QWEN_OLD], ids=named)
def test_qwen_is_asked_the_same_in_its_openai_compatible_words(system: System, tmp_path: Path) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider)
        delivery = delivery_of(model)
        for enrichment in ALL:
            each = generation_request(model, enrichment)
            model.open_engine().generate([each])
            native, line = provider.received[-1].body, json.loads(delivery.line("id", each).content)["body"]
            (message,) = native["input"]["messages"]
            (compatible,) = line["messages"]
            assert [part.get("text") for part in message["content"]] == [p.get("text") for p in compatible["content"]]
            image, shown = message["content"][0], compatible["content"][0]
            assert shown["image_url"]["url"] == image["image"]
            assert (shown["min_pixels"], shown["max_pixels"]) == (image["min_pixels"], image["max_pixels"])
            parameters = {key: value for key, value in line.items() if key not in ("model", "messages")}
            assert parameters == {k: v for k, v in native["parameters"].items() if k != "result_format"}


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_what_a_vendor_declines_of_a_batch_is_a_failure_with_its_cause(system: System, tmp_path: Path) -> None:
    def behave(received: Received) -> Say | Status:
        kinds = [Say("fine"), Status(500), Status(429, "Throttling"), Say("no", "refusal"), Say("cut", "truncated")]
        return kinds[received.images[0].getpixel((0, 0))[1] % 5]

    from PIL import Image

    causes = {}
    with system.on_loopback(behave) as provider:
        model = system.connect(provider)
        delivery = delivery_of(model)
        (prompt,) = model.prompts(CAPTION, MediaKind.IMAGE)
        lines = [
            delivery.line(
                str(k), GenerationRequest(request(CAPTION, Image.new("RGB", (8, 8), (0, k, 0))), prompt)
            ).content
            for k in range(5)
        ]
        batch = delivery.create(sent(delivery, lines, tmp_path), BATCH)
        for custom_id, output in results(delivery, batch.id, tmp_path).items():
            causes[custom_id] = output.cause if isinstance(output, Failure) else output.truncated
            if custom_id == "3":
                assert isinstance(output, BilledFailure) and output.usage.cost_usd > 0, "a refusal is billed"
    assert causes == {"0": False, "1": Cause.MODEL, "2": Cause.RATE_LIMITED, "3": Cause.REFUSED, "4": True}


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_a_batch_is_found_by_our_id_and_leaves_nothing_behind(system: System, tmp_path: Path) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider)
        delivery = delivery_of(model)
        line = delivery.line("id", generation_request(model)).content
        provider.batches.polls = 100
        for k in range(3):  # others before it, on more pages than one
            file = tmp_path / f"{k}"
            file.write_bytes(line)
            delivery.create(delivery.upload(file, f"other-{k}"), f"other-{k}")
        assert delivery.find("file-unknown", BATCH) is None
        input_file = sent(delivery, [line], tmp_path)
        made = delivery.create(input_file, BATCH)
        assert delivery.find(input_file, BATCH) == made
        assert delivery.find(None, BATCH) == made
        assert delivery.look_up("batches/none" if system is GEMINI else "none") is None
        assert not delivery.download("files/none" if system is GEMINI else "none", tmp_path / "x", 1000)
        assert delivery.look_up(made.id).state is RemoteState.RUNNING
        delivery.cancel(made.id)
        done = delivery.look_up(made.id)
        assert done.state is RemoteState.CANCELLED
        delivery.remove([*done.result_files], made.id, BATCH)  # the file of requests is found by its name
        delivery.remove([*done.result_files], made.id)  # and what is gone is gone
        assert {name for file, name in provider.batches.names.items() if file in provider.batches.files} == {
            f"other-{k}" + (".jsonl" if system is not GEMINI else "") for k in range(3)
        }


class Unsteady:
    """Does to the requests that begin a batch what it is told, in turn, and then lets them through."""

    def __init__(self, provider: LoopbackProvider, *happens: str) -> None:
        self.provider, self.happens, self.answer = provider, list(happens), provider.routes.answer
        provider.routes.answer = self  # type: ignore[method-assign]

    def __call__(self, http: Any, method: str) -> bool:
        begins = method == "POST" and http.path.endswith(("/batches", ":batchGenerateContent"))
        happens = self.happens.pop(0) if begins and self.happens else ""
        if happens == "lost":  # it is done, and nobody hears of it
            reply, self.provider.routes._reply = self.provider.routes._reply, lambda *_: None
            self.answer(http, method)
            self.provider.routes._reply, http.close_connection = reply, True
            return True
        if happens:
            http.rfile.read(int(http.headers["Content-Length"]))
            error = {"code": int(happens), "message": "no", "status": "X"}
            self.provider._reply(http, int(happens), {"error": error})
            return True
        return self.answer(http, method)


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
@pytest.mark.parametrize("happens", [("lost",), ("500",), ("429",), ("503", "lost"), ("lost", "500")])
def test_a_batch_begins_once_whatever_becomes_of_the_answer(
    system: System, happens: tuple[str, ...], tmp_path: Path
) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider)
        delivery = delivery_of(model)
        input_file = sent(delivery, [delivery.line("id", generation_request(model)).content], tmp_path)
        Unsteady(provider, *happens)
        made = delivery.create(input_file, BATCH)
        assert [made.id.rpartition("/")[2]] == list(provider.batches.jobs)


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
@pytest.mark.parametrize("happens", [("lost",), ("504",), ("500", "400")])
def test_what_may_have_begun_is_looked_for_and_not_said_again(
    system: System, happens: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor's list may lag behind by minutes."""
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider, max_attempts=3)
        delivery = delivery_of(model)
        input_file = sent(delivery, [delivery.line("id", generation_request(model)).content], tmp_path)
        Unsteady(provider, *happens)
        monkeypatch.setattr(type(delivery), "search", lambda *_: None)
        with pytest.raises(ModelError, match="sightflow collect") as raised:
            delivery.create(input_file, BATCH)
        assert not isinstance(raised.value, BatchDeclined)
        assert len(provider.batches.jobs) <= 1


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
def test_a_vendor_that_says_no_to_a_batch_is_believed(system: System, tmp_path: Path) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider, max_attempts=2)
        delivery = delivery_of(model)
        input_file = sent(delivery, [delivery.line("id", generation_request(model)).content], tmp_path)
        for status in ("400", "401", "429"):
            Unsteady(provider, status, status)
            with pytest.raises(BatchDeclined, match=model.vendor):
                delivery.create(input_file, BATCH)
        Unsteady(provider, "500", "500")
        with pytest.raises(ModelError, match="sightflow collect") as raised:
            delivery.create(input_file, BATCH)
        assert not isinstance(raised.value, BatchDeclined)
        assert not provider.batches.jobs


@pytest.mark.parametrize(
    ("system", "settings", "problem"),
    [
        (GPT, {"azure_api_version": "2024-10-21"}, "Azure"),
        (GEMINI, {"project": "p", "base_url": None}, "Vertex"),
        (QWEN, {"id": "qwen3.8-flash"}, "no batches of qwen3.8-flash"),
        (QWEN, {"base_url": "https://dashscope-intl.aliyuncs.com/api/v1"}, "Beijing"),
    ],
)
def test_where_there_is_no_batch_it_is_said(system: System, settings: dict[str, Any], problem: str) -> None:
    usual = {
        "api_key": "k",
        "id": system.id,
        "base_url": "https://RESOURCE.openai.azure.com" if system is GPT else None,
    }
    model = system.model(**usual | settings)
    assert problem in (model.open_engine().batch_problem(CAPTION, MediaKind.IMAGE) or "")


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b"null", b'{"custom_id": 3, "key": 3}', b"{" * 5000, b"\xff\xfe", b'"text"', b"1e999"]
)
def test_a_line_that_cannot_be_read_is_nobodys(system: System, line: bytes) -> None:
    model = system.model(api_key="k", base_url="http://127.0.0.1:9/api/v1", id=system.id)
    assert delivery_of(model).result(line) is None


@pytest.mark.parametrize("system", SYSTEMS, ids=named)
@pytest.mark.parametrize("inside", [None, {}, [], "x", {"status_code": 200}, {"status_code": 200, "body": []}, 7])
def test_a_line_with_an_id_and_nonsense_is_a_failure_of_that_request(system: System, inside: Any) -> None:
    model = system.model(api_key="k", base_url="http://127.0.0.1:9/api/v1", id=system.id)
    custom_id, output, _ = delivery_of(model).result(  # type: ignore[misc]
        json.dumps({"custom_id": "a", "key": "a", "response": inside, "error": None}).encode()
    )
    assert custom_id == "a"
    assert isinstance(output, Failure)
