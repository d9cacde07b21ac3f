"""Whatever provider there is: keys, headers and prices of its own, Azure OpenAI, Vertex AI, proxies, certificates."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sightflow.blocks.models.registry import open_model, settings_problems
from sightflow.blocks.models.systems.chat import Chat
from sightflow.blocks.models.systems.gemini import Gemini
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment, RegionsResult, TextResult
from sightflow.schemas.failure import Cause, ModelError, SpecError
from sightflow.schemas.policy import Policy
from sightflow.schemas.redaction import redact
from sightflow.tasks.route import _forbidden_reason
from tests.loopback import azure_api, vertex_api
from tests.loopback.azure_api import AzureOnLoopback
from tests.loopback.endpoint_api import EndpointOnLoopback
from tests.loopback.hosted_systems import CAPTION, CHOOSE, DETECT, SMALL, request
from tests.loopback.https_proxy import ConnectProxy, behind_tls
from tests.loopback.server import Received, Say, Status, in_turn
from tests.loopback.vertex_api import VertexOnLoopback
from tests.tiny_models.families import noisy_video

KEY = "a-key-of-a-company-0123456789"
VIDEO = Enrichment(capability=Capability.VIDEO_CAPTIONING)


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SIGHTFLOW_ENDPOINT_KEY",
        "OPENAI_API_KEY",
        "AZURE_OPENAI_API_KEY",
        "GOOGLE_API_KEY",
        "GEMINI_API_KEY",
    ):
        monkeypatch.delenv(name, raising=False)


def chat(url: str, **settings: Any) -> Chat:
    model = open_model(
        "far", {"system": "chat", "id": "vendor/any-vlm", "engine": "endpoint", "endpoint_url": url} | settings
    )
    assert isinstance(model, Chat)
    return model


# --- any OpenAI-compatible provider -----------------------------------------------------------------


def test_a_provider_is_asked_with_the_key_and_the_headers_of_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("SIGHTFLOW_ENDPOINT_KEY", "another-key-altogether")
    monkeypatch.setenv("TEAM", "photographs")
    prices = {"usd_per_million_input": 2.0, "usd_per_million_output": 10.0}
    with EndpointOnLoopback(lambda received: Say("A red box."), lists=["vendor/any-vlm"], key=KEY) as server:
        model = chat(server.url, api_key_variable="OPENROUTER_API_KEY", headers={"X-Team": "TEAM"}, **prices)
        assert model.availability().usable
        (reply,) = model.run([request(CAPTION)])
        received = server.received[0]
    assert reply.outcome == TextResult("A red box.") and reply.system == "far"
    assert received.key == KEY and received.headers["x-team"] == "photographs"
    assert reply.usage.cost_usd == pytest.approx((reply.usage.input_tokens * 2 + reply.usage.output_tokens * 10) / 1e6)
    assert model.price_per_item(CAPTION, MediaKind.IMAGE) == pytest.approx(0.0059, rel=0.3)
    assert KEY not in repr(model) + model.model_dump_json() + redact(f"it said {KEY} and photographs")


def test_a_key_or_a_header_that_is_not_there_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with EndpointOnLoopback(lambda received: Say()) as server:
        keyless = chat(server.url, api_key_variable="GATEWAY_KEY").availability()
        assert not keyless.usable and keyless.remedy == "set GATEWAY_KEY"
        nameless = chat(server.url, headers={"X-Team": "NO_SUCH_TEAM"}).availability()
        assert not nameless.usable and "NO_SUCH_TEAM" in nameless.why
        assert server.received == []


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key_variable": "sk-this-is-the-key-itself"},
        {"headers": {"Authorization": "Bearer the-key-itself"}},
        {"headers": {"X-Team": "of two words"}},
        {"headers": {"Host": "ELSEWHERE"}},
        {"headers": {"X-Team": "AWS_SECRET_ACCESS_KEY"}},
        {"api_key_variable": "PREFECT_API_KEY"},
        {"headers": {"X-Bad\r\nX-Other": "TEAM"}},
        {"headers": ["X-Team"]},
        {"azure_api_version": "latest"},
    ],
)
def test_values_do_not_stand_in_a_spec_and_are_not_repeated(settings: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as error:
        chat("http://localhost:1/v1", **settings)
    assert "itself" not in str(error.value).replace("the value itself", "")


def test_a_refused_key_names_its_variable_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    with EndpointOnLoopback(lambda received: Status(401, message=f"odd: {KEY}")) as server:
        model = chat(server.url, api_key_variable="TOGETHER_API_KEY")
        with pytest.raises(ModelError, match="TOGETHER_API_KEY") as error:
            model.run([request(CAPTION), request(CAPTION)])
    assert KEY not in str(error.value) and len(server.received) == 1


def test_limits_are_those_of_the_settings() -> None:
    with EndpointOnLoopback(in_turn(Status(429, headers={"Retry-After": "600"}), Say("late"))) as server:
        model = chat(server.url, longest_wait=5, max_attempts=2, requests_per_minute=7, tokens_per_minute=900)
        (reply,) = model.run([request(CAPTION)])
        account = model.open_engine().account  # type: ignore[attr-defined]
    assert reply.failure and reply.failure.cause is Cause.RATE_LIMITED and len(server.received) == 1
    assert (account.requests_per_minute, account.tokens_per_minute) == (7, 900)


def test_a_price_that_nobody_has_said_is_told_and_refused_where_prices_are_limited() -> None:
    far = chat("https://models.example.com/v1")
    assert "usd_per_million_input" in far.notice and far.price_per_item(CAPTION, MediaKind.IMAGE) == 0
    assert _forbidden_reason(far, Policy(hosted="allow"), 0.0) is None
    assert "price is not known" in (_forbidden_reason(far, Policy(hosted="allow", max_price_per_item=1.0), 0.0) or "")
    known = chat("https://models.example.com/v1", usd_per_million_input=0, usd_per_million_output=0)
    assert known.notice == "" and chat("http://10.0.0.7:8000/v1").notice == ""


def test_boxes_far_away_are_read_as_the_family_of_the_id_writes_them() -> None:
    def behave(received: Received) -> Say:
        return Say(json.dumps([{"bbox_2d": [250, 250, 500, 1000], "label": "box"}]))

    with EndpointOnLoopback(behave) as server:
        (known,) = chat(server.url, id="qwen/qwen3-vl-8b-instruct").run([request(DETECT)])
        assert isinstance(known.outcome, RegionsResult)
        box = known.outcome.regions[0].box
        assert (box.x_min, box.y_min, box.x_max, box.y_max) == (16, 12, 32, 48)
        assert "set box_format" in (chat(server.url).unsupported_reason(DETECT, MediaKind.IMAGE) or "")
        (told,) = chat(server.url, box_format="thousandths").run([request(DETECT)])
        assert told.outcome == known.outcome


def test_a_film_is_shown_as_its_frames() -> None:
    with EndpointOnLoopback(lambda received: Say("a film")) as server:
        (reply,) = chat(server.url).run([request_of_film()])
    assert reply.outcome == TextResult("a film") and len(server.received[0].images) == 3


def request_of_film() -> Any:
    from sightflow.schemas.vision import VisionRequest

    return VisionRequest("s3://b/x.mp4", VIDEO, noisy_video(3, 84, 56))


def test_thinking_in_a_field_of_its_own_or_before_the_answer_is_not_part_of_it() -> None:
    class Thinks(EndpointOnLoopback):
        def answer(self, request: Received, said: Say, input_tokens: int, output_tokens: int) -> Any:
            answered = super().answer(request, said, input_tokens, output_tokens)
            answered["choices"][0]["message"]["reasoning_content"] = "Let me see. It is red."
            return answered

    for written in ("<think>It is red.</think>\n\nA box.", "It is red.</think>A box.", "A box."):
        with Thinks(lambda received, written=written: Say(written)) as server:
            (reply,) = chat(server.url).run([request(CAPTION)])
        assert reply.outcome == TextResult("A box.")


def test_a_model_that_takes_neither_a_temperature_nor_the_older_limit_is_asked_without() -> None:
    class Reasons(EndpointOnLoopback):
        def understand(self, path: str, body: Any, headers: Any) -> Any:
            for name in ("max_tokens", "temperature"):
                if name in body:
                    raise ValueError(f"Unsupported parameter: {name!r}. Use 'max_completion_tokens' instead.")
            return super().understand(path, body, headers)

    with Reasons(lambda received: Say("A box.")) as server:
        replies = chat(server.url, max_concurrency=1, max_new_tokens=77).run([request(CAPTION)] * 3)
    assert [reply.outcome for reply in replies] == [TextResult("A box.")] * 3
    assert [received.body["max_completion_tokens"] for received in server.received] == [77] * 3


def test_whether_a_model_thinks_is_told_to_servers_that_have_a_switch() -> None:
    class Switch(EndpointOnLoopback):
        def understand(self, path: str, body: Any, headers: Any) -> Any:
            self.switched = body.pop("chat_template_kwargs", None)
            return super().understand(path, body, headers)

    with Switch(lambda received: Say("A box.")) as server:
        chat(server.url, thinking=False).run([request(CAPTION)])
        assert server.switched == {"enable_thinking": False}


# --- Azure OpenAI -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2024-10-21", None], ids=["deployments", "v1"])
def test_gpt_4o_at_azure_is_asked_by_its_deployment(version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    with AzureOnLoopback(lambda received: Say('{"answer": "yes"}')) as server:
        address = server.url if version else f"{server.url}/openai/v1"
        model = GPT4o(base_url=address, azure_api_version=version, azure_deployment="our-gpt", timeout=20)
        assert model.account_availability().usable
        (reply,) = model.run([request(CHOOSE)])
        assert reply.outcome == TextResult("yes") and reply.usage.cost_usd > 0
        assert (server.received[0].model, server.received[0].key) == ("our-gpt", KEY)
        assert server.complaints == []


def test_chat_at_azure_is_asked_by_its_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    with AzureOnLoopback(lambda received: Say("A box.")) as server:
        model = chat(server.url, azure_api_version="2024-10-21", azure_deployment="our-llama")
        assert model.availability().usable
        (reply,) = model.run([request(CAPTION)])
    assert reply.outcome == TextResult("A box.")
    assert (server.received[0].model, server.received[0].key) == ("our-llama", KEY)


@pytest.mark.parametrize("version", ["2024-10-21", None], ids=["deployments", "v1"])
def test_at_azure_a_token_of_entra_stands_in_the_key_s_place(
    version: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with AzureOnLoopback(lambda received: Say("A box.")) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "loopback")
        address = server.url if version else f"{server.url}/openai/v1"
        model = GPT4o(base_url=address, azure_api_version=version, azure_entra=True, timeout=20)
        replies = model.run([request(CAPTION)] * 3)
    assert [reply.outcome for reply in replies] == [TextResult("A box.")] * 3
    assert {received.key for received in server.received} == {azure_api.TOKEN}
    assert server.tokens_given == 1, "a token is kept until it ends"
    assert azure_api.TOKEN not in redact(f"Authorization was {azure_api.TOKEN}") + caplog.text


def test_without_a_credential_azure_ends_the_run_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with AzureOnLoopback(lambda received: Say("A box.")) as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/msi/nowhere")
        monkeypatch.setenv("IDENTITY_HEADER", "loopback")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        model = GPT4o(base_url=server.url, azure_api_version="2024-10-21", azure_entra=True, timeout=20)
        with pytest.raises(ModelError, match=r"no token of Microsoft Entra.*az login"):
            model.run([request(CAPTION)] * 3)
    assert server.received == []


def test_what_azure_needs_is_said_before_anything_is_sent() -> None:
    told = dict(settings_problems("gpt-4o", {"azure_api_version": "2024-10-21"}))
    assert "https://RESOURCE.openai.azure.com" in str(told)
    both = {"azure_api_version": "2024-10-21", "base_url": "https://r.openai.azure.com/openai/v1"}
    assert "without /openai" in str(settings_problems("gpt-4o", both))
    keyless = GPT4o(base_url="https://r.openai.azure.com/openai/v1", azure_deployment="our-gpt").account_availability()
    assert "AZURE_OPENAI_API_KEY" in keyless.remedy


# --- Gemini on Vertex AI ------------------------------------------------------------------------------


def test_gemini_on_vertex_ai_is_asked_with_application_default_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)  # of AI Studio, and not for here
    with VertexOnLoopback(lambda received: Say("A red box.")) as server:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(server.credentials(tmp_path)))
        model = Gemini(project="our-project", location="europe-west4", base_url=server.url, timeout=20)
        assert model.availability().usable
        replies = model.run([request(CAPTION), request(CAPTION)])
        assert [reply.outcome for reply in replies] == [TextResult("A red box.")] * 2
        assert set(server.places) == {("our-project", "europe-west4")}
        assert {received.key for received in server.received} == {vertex_api.TOKEN}
        assert server.complaints == []
    assert replies[0].usage.cost_usd > 0


def test_credentials_that_are_refused_or_missing_end_the_run_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with VertexOnLoopback(lambda received: Say("never"), refuses=True) as server:
        for file in (server.credentials(tmp_path), tmp_path / "not-there.json"):
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
            model = Gemini(project="our-project", base_url=server.url, timeout=20)
            with pytest.raises(ModelError, match="gcloud auth application-default login"):
                model.run([request(CAPTION)] * 3)
        assert server.received == []


# --- a company's network ------------------------------------------------------------------------------


def test_a_proxy_and_a_certificate_of_the_company_s_own_are_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EndpointOnLoopback(lambda received: Say("A red box.")) as server:
        port = server._server.server_port
        authority = behind_tls(server, "models.example.com", tmp_path)
        with ConnectProxy(port) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", "")
            far = {"api_key_variable": "GATEWAY_KEY", "endpoint_timeout": 10}
            monkeypatch.setenv("GATEWAY_KEY", KEY)
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            distrusted = chat("https://models.example.com/v1", **far).availability()
            assert not distrusted.usable and "SSL_CERT_FILE" in distrusted.remedy
            monkeypatch.setenv("SSL_CERT_FILE", str(authority))
            model = chat("https://models.example.com/v1", **far)
            assert model.availability().usable
            (reply,) = model.run([request(CAPTION)])
    assert reply.outcome == TextResult("A red box.")
    assert set(proxy.asked) == {"models.example.com:443"} and server.received[-1].images[0].size == SMALL.size
