"""The router: the best allowed system for each capability, every place in the ranking explained."""

from typing import Any

import pytest

from sightflow.blocks.models import registry as systems
from sightflow.blocks.models.contract import Availability
from sightflow.blocks.models.registry import system_class
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import SpecError
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import Route
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.route import resolve_enrichments, route

CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
DETECT = Enrichment(capability=Capability.OBJECT_DETECTION)


@pytest.fixture(autouse=True)
def all_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system can be used here: the ranking is by the table and the policy alone."""
    for system in systems.SYSTEMS:
        monkeypatch.setattr(systems.system_class(system), "availability", lambda _self: Availability(True, "here"))


def ranked(enrichment: Enrichment, kind: MediaKind = MediaKind.IMAGE, **policy: Any) -> Route:
    spec = EnrichmentSpec(
        source=("s3://bucket/**",), catalog="s3://bucket/catalog", enrichments=(enrichment,), policy=Policy(**policy)
    )
    return route(enrichment, kind, spec)


def why(found: Route, system: str) -> str:
    return next(candidate.why for candidate in found.candidates if candidate.system == system)


def test_the_better_rated_comes_first_then_local_then_cheaper() -> None:
    found = ranked(DETECT, hosted="allow")
    stars = [system_class(system).rating.of(Capability.OBJECT_DETECTION) for system in found.systems]
    assert stars == sorted(stars, reverse=True)
    assert found.systems[0] == "florence-2"  # 4, as gemini and qwen-vl-max, and local
    prices = {c.system: c.price_per_item for c in found.candidates}
    hosted = [
        system for system in found.systems if prices[system] and system_class(system).rating.of(DETECT.capability) == 4
    ]
    assert [prices[system] for system in hosted] == sorted(prices[system] for system in hosted)


def test_hosted_systems_are_denied_unless_allowed() -> None:
    found = ranked(CAPTION)
    assert not any(system_class(system).rating.weights == "closed" for system in found.systems)
    assert why(found, "gemini") == "hosted, and policy.hosted is deny"


def test_a_rating_of_0_is_a_refusal_before_anything_is_listed() -> None:
    assert "rated 0" in why(ranked(DETECT), "llava-next")
    pinned = DETECT.model_copy(update={"model": "llava-next"})
    spec = EnrichmentSpec(source=("s3://bucket/**",), catalog="s3://bucket/catalog", enrichments=(pinned,))
    with pytest.raises(SpecError, match=r"llava-next cannot do object_detection \(rated 0\)"):
        resolve_enrichments(spec)


def test_an_unknown_system_is_refused_with_those_that_are_known() -> None:
    pinned = CAPTION.model_copy(update={"model": "clip"})
    spec = EnrichmentSpec(source=("s3://bucket/**",), catalog="s3://bucket/catalog", enrichments=(pinned,))
    with pytest.raises(SpecError, match=r"'clip' is not a system; allowed: .*florence-2"):
        resolve_enrichments(spec)


def test_a_wanted_language_goes_before_the_rating() -> None:
    best = ranked(CAPTION.model_copy(update={"language": "zh"}), hosted="allow").systems
    assert best[:2] == ["qwen2-vl", "qwen-vl-max"]
    assert ranked(CAPTION, languages=("zh",)).systems[0] == "qwen2-vl"


def test_licences_price_and_commercial_use_are_kept_to() -> None:
    found = ranked(CAPTION, hosted="allow", licences=("mit",))
    assert "florence-2" in found.systems
    assert "policy.licences allows mit" in why(found, "qwen2-vl")
    found = ranked(CAPTION, hosted="allow", max_price_per_item=0.0)
    assert all(c.price_per_item == 0 for c in found.candidates if c.usable)
    assert "above policy.max_price_per_item" in why(found, "gpt-4o")
    found = ranked(CAPTION, hosted="allow", commercial_use=True)
    assert set(found.systems) <= {c.system for c in found.candidates if c.usable}
    assert "florence-2" in found.systems


def test_the_kind_of_media_decides_too() -> None:
    asked = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="what?")
    found = ranked(asked, MediaKind.VIDEO)
    assert why(found, "llava-next") == "llava-next takes no video"
    assert why(found, "instruct-blip") == "instruct-blip takes no video"
    assert "qwen2-vl" in found.systems


def test_what_is_not_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Availability(False, "no weights", "run: sightflow models pull florence-2")
    monkeypatch.setattr(systems.system_class("florence-2"), "availability", lambda _self: absent)
    assert why(ranked(DETECT), "florence-2") == "no weights; run: sightflow models pull florence-2"


def test_a_ninth_system_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(systems.SYSTEMS, "ninth", "tests.ninth_system:Ninth")
    systems.system_class.cache_clear()
    found = ranked(CAPTION)
    assert "ninth" in found.systems
    pinned = CAPTION.model_copy(update={"model": "ninth"})
    resolved, _ = resolve_enrichments(
        EnrichmentSpec(source=("s3://bucket/**",), catalog="s3://bucket/catalog", enrichments=(pinned,))
    )[0]
    assert resolved.systems == ("ninth",) and len(resolved.recipe) == 16
    systems.system_class.cache_clear()
