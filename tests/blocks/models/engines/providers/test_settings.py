"""Keys, ids and prices of the hosted systems: nothing leaks, nothing retired is used, everything is paid for openly."""

import logging
import traceback

import pytest
from pydantic import SecretStr, ValidationError

from sightflow.blocks.models.hosted_profiles import of_id
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import ModelError
from tests.loopback.hosted_systems import (
    CAPTION,
    DETECT,
    GEMINI,
    GENERATIONS,
    GPT,
    GPT_NEXT,
    KEY,
    QWEN,
    REASON,
    SEGMENT,
    SYSTEMS,
    image_with_box,
    named,
    perfect,
    request,
)
from tests.loopback.server import CutBody, Say, Status, in_turn

EACH = pytest.mark.parametrize("system", SYSTEMS, ids=named)


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch) -> None:
    for name in ("OPENAI_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY", "DASHSCOPE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


# --- keys --------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(
    "reaction",
    [Status(status, message=f"odd: {KEY}") for status in (400, 401, 403, 404, 429, 500)] + [CutBody()],
    ids=lambda reaction: str(getattr(reaction, "status", "cut")),
)
def test_the_key_is_in_no_repr_message_log_or_traceback(system, reaction, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    told = []
    with system.on_loopback(in_turn(reaction)) as provider:
        model = system.connect(provider, max_attempts=2)
        try:
            told += [repr(model.run([request(CAPTION)]))]
        except ModelError as error:
            told += [*traceback.format_exception(error), repr(error.__context__), repr(error.__cause__)]
        assert provider.received[0].key == KEY
    told += [repr(model), str(model), repr(model.model_dump()), model.model_dump_json(), repr(model.availability())]
    told += [record.getMessage() + str(record.exc_text) + str(record.args) for record in caplog.records]
    told += [*capfd.readouterr()]
    assert KEY not in "\n".join(told)


@EACH
def test_the_key_comes_from_the_vendors_environment_variable(system, monkeypatch) -> None:
    for variable in system.model.key_variables:
        monkeypatch.setenv(variable, f"  {KEY}\n")
        with system.on_loopback(perfect(system)) as provider:
            (reply,) = system.connect(provider, api_key=None).run([request(CAPTION)])
            assert reply.failure is None
            assert provider.received[0].key == KEY
        monkeypatch.delenv(variable)


@EACH
def test_without_a_key_it_says_which_variable_to_set_and_sends_nothing(system) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider, api_key=None)
        available = model.availability()
        assert not available.usable
        assert all(variable in available.remedy for variable in model.key_variables)
        with pytest.raises(ModelError, match="there is no API key"):
            model.run([request(CAPTION)])
        assert provider.received == []


@EACH
@pytest.mark.parametrize("key", ["sk-a\nb", "sk-ключ", "sk a"])
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(system, key) -> None:
    available = system.model(api_key=SecretStr(key)).availability()
    assert not available.usable
    assert key not in available.why + available.remedy


def test_a_setting_that_is_wrong_is_refused() -> None:
    for wrong in ({"base_url": "ftp://x"}, {"max_concurrency": 0}, {"timeout": 0}, {"key": "x"}):
        with pytest.raises(ValidationError):
            GPT.model(**wrong)


# --- ids ---------------------------------------------------------------------------------------


@EACH
def test_the_default_is_known_priced_and_not_retired(system) -> None:
    model = system.model(api_key=KEY)
    assert model.availability().usable
    assert of_id(model.profiles, model.default.id) is not None
    assert of_id(model.retired, model.default.id) is None
    assert model._block_type_slug == f"sightflow-{system.name}"


@EACH
def test_every_retired_id_is_refused_with_its_successor(system) -> None:
    for gone, successor in system.model.retired.items():
        model = system.model(id=gone, api_key=KEY)
        assert not model.availability().usable
        with pytest.raises(ModelError) as told:
            model.prepare()
        assert gone in str(told.value) and successor in str(told.value)


def test_a_snapshot_of_a_retired_model_is_retired_too() -> None:
    assert not GEMINI.model(id="gemini-1.5-pro-002", api_key=KEY).availability().usable
    assert not GEMINI.model(id="gemini-1.5-pro-latest", api_key=KEY).availability().usable


def test_a_gateway_of_ones_own_may_serve_a_retired_model() -> None:
    with GEMINI.on_loopback(perfect(GEMINI)) as provider:
        settings = {"id": "gemini-1.5-pro", "usd_per_million_input": 0, "usd_per_million_output": 0}
        (reply,) = GEMINI.connect(provider, **settings).run([request(CAPTION)])
    assert reply.failure is None


def test_an_end_that_was_announced_is_told() -> None:
    why = GPT.model(api_key=KEY).availability().why
    assert "2027-01-14" in why and "gpt-6-luna" in why


@pytest.mark.parametrize(
    "model_id, family",
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-audio-preview", None),
        ("gpt-4", None),
        ("gpt-4o", "gpt-4o"),
    ],
)
def test_a_dated_snapshot_has_the_profile_of_its_family(model_id, family) -> None:
    assert of_id({name: name for name in GPT.model.profiles}, model_id) == family


@EACH
def test_the_row_records_the_id_that_the_provider_says_it_served(system) -> None:
    said = {"gpt-4o": "gpt-4o-2024-08-06", "gemini-3.8-flash": "gemini-3.8-flash-001", "qwen3.7-plus": "qwen3.7-plus"}
    with system.on_loopback(perfect(system)) as provider:
        (reply,) = system.connect(provider).run([request(CAPTION)])
    assert reply.model_id == said[system.id]


def test_another_model_than_was_asked_for_is_recorded() -> None:
    with GPT.on_loopback(lambda _: Say("hello", model="gpt-4o-mini-2024-07-18")) as provider:
        (reply,) = GPT.connect(provider).run([request(CAPTION)])
    assert reply.model_id == "gpt-4o-mini-2024-07-18"


@EACH
def test_what_a_reply_depends_on_is_in_the_recipe(system) -> None:
    recipe = system.model().recipe(DETECT, MediaKind.IMAGE)
    assert recipe == system.model(api_key=KEY, max_concurrency=99, timeout=7).recipe(DETECT, MediaKind.IMAGE)
    others = [
        system.model(max_new_tokens=99),
        system.model(id=next(i for i in system.model.profiles if i != system.id)),
    ]
    assert recipe not in [other.recipe(DETECT, MediaKind.IMAGE) for other in others]


# --- prices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_tokens_and_price_are_those_that_the_provider_counted(system) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider)
        (reply,) = model.run([request(CAPTION)])
    paid, made = provider.billed_tokens["input"], provider.billed_tokens["output"]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (paid, made)
    assert model.rates is not None
    into, out = model.rates.input, model.rates.output
    assert reply.usage.cost_usd == pytest.approx((paid * into + made * out) / 1e6)
    assert reply.usage.cost_usd > 0


def test_configured_prices_win() -> None:
    with GPT.on_loopback(perfect(GPT)) as provider:
        model = GPT.connect(provider, usd_per_million_input=1000, usd_per_million_output=0)
        (reply,) = model.run([request(CAPTION)])
    assert reply.usage.cost_usd == pytest.approx(reply.usage.input_tokens / 1000)


@EACH
def test_a_stranger_needs_its_prices_configured(system) -> None:
    assert "price" in system.model(id="brand-new-model", api_key=KEY).availability().why
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 2.0}
    with system.on_loopback(perfect(system)) as provider:
        (reply,) = system.connect(provider, id="brand-new-model", **prices).run([request(CAPTION)])
    assert provider.complaints == [] and reply.failure is None
    assert system.model(id="brand-new-model").price_per_item(CAPTION, MediaKind.IMAGE) == 0


@pytest.mark.parametrize("system", GENERATIONS, ids=named)
def test_the_estimate_of_a_price_is_of_the_right_size(system) -> None:
    model = system.model(id=system.id)
    captions, reasons, outlines = (model.price_per_item(e, MediaKind.IMAGE) for e in (CAPTION, REASON, SEGMENT))
    assert 1e-5 < captions < reasons < outlines < 0.05
    long = Enrichment(capability=CAPTION.capability, detail="paragraph")
    assert model.price_per_item(long, MediaKind.IMAGE) > captions


@pytest.mark.parametrize(
    "system, settings, size, tokens",
    [
        (GPT, {}, (1024, 1024), 765),
        (GPT, {}, (2048, 4096), 1105),
        (GPT, {"detail": "low"}, (4096, 8192), 85),
        (GPT, {"id": "gpt-4.1-mini"}, (1024, 1024), 1659),
        (GPT_NEXT, {}, (1024, 1024), 1024),
        (GEMINI, {}, (1024, 1024), 1120),
        (GEMINI, {"id": "gemini-2.5-flash"}, (384, 384), 258),
        (GEMINI, {"id": "gemini-2.5-flash"}, (960, 540), 6 * 258),
        (QWEN, {}, (1024, 1024), 1026),
        (QWEN, {"id": "qwen-vl-max"}, (280, 280), 102),
    ],
)
def test_image_tokens_by_the_vendors_published_rules(system, settings, size, tokens) -> None:
    assert system.model(**({"id": system.id} | settings)).image_tokens(size) == tokens


@EACH
def test_the_rate_limit_is_kept_over_real_requests(system) -> None:
    with system.on_loopback(perfect(system)) as provider:
        model = system.connect(provider, requests_per_minute=5, max_concurrency=4)
        model.run([request(CAPTION)] * 12)
        assert len(provider.received) == 12
    assert 120 <= model.open_engine().clock.now < 600


def test_openais_headers_slow_it_down() -> None:
    with GPT.on_loopback(perfect(GPT)) as provider:
        provider.headers = {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1m0s",
        }
        model = GPT.connect(provider, max_concurrency=1)
        model.run([request(CAPTION)] * 3)
    assert model.open_engine().clock.now == pytest.approx(2)


def test_large_pictures_are_downsized_before_their_tokens_are_estimated() -> None:
    with QWEN.on_loopback(perfect(QWEN)) as provider:
        model = QWEN.connect(provider, tokens_per_minute=3000)
        model.run([request(CAPTION, image_with_box((3000, 2000), (10, 10, 900, 900)))] * 2)
    assert model.open_engine().clock.now >= 60
