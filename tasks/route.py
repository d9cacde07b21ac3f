"""route: which system serves an enrichment here, and why."""

from __future__ import annotations

from sightflow.blocks.models.hosted_model import HostedModel
from sightflow.blocks.models.outside_systems import blamed_on
from sightflow.blocks.models.registry import model_class, open_model, settings_problems, system_problem
from sightflow.blocks.models.systems import SYSTEMS
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import SpecError
from sightflow.schemas.policy import Policy
from sightflow.schemas.run.plan import (
    DIRECTLY,
    Candidate,
    DeliveryChoice,
    ResolvedEnrichment,
    Route,
    RoutedEnrichment,
)
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.memory.limit import check_memory


def route(enrichment: Enrichment, media_kind: MediaKind, spec: EnrichmentSpec) -> Route:
    """Rank the systems for an enrichment: usable ones first, then by language, rating, local before hosted, price.

    A pinned model is the only candidate. Else these are all systems of ours and what the spec's `models` names besides;
    of equals such a one comes first. Every candidate carries the reason of its place. Raises SpecError for a system
    that is not known, or settings that do not fit it.
    """
    names = [enrichment.model] if enrichment.model else list(dict.fromkeys([*SYSTEMS, *spec.models]))
    candidates = [_candidate(name, enrichment, media_kind, spec) for name in names]
    languages = {enrichment.language, *spec.policy.languages} - {None}

    def rank(candidate: Candidate) -> tuple[object, ...]:
        speaks = languages <= set(model_class(*spec.model_entry(candidate.system)).rating.languages)
        return (
            not candidate.usable,
            not speaks,
            -(candidate.rating or 0),
            candidate.hosted,
            candidate.price_per_item,
            candidate.system in SYSTEMS,
            candidate.system,
        )

    return Route(capability=enrichment.capability, media_kind=media_kind, candidates=sorted(candidates, key=rank))


def _candidate(name: str, enrichment: Enrichment, media_kind: MediaKind, spec: EnrichmentSpec) -> Candidate:
    model = open_model(*spec.model_entry(name))
    with blamed_on(name, type(model)):
        return _judged(name, model, enrichment, media_kind, spec)


def _judged(
    name: str, model: VisionModel, enrichment: Enrichment, media_kind: MediaKind, spec: EnrichmentSpec
) -> Candidate:
    price = model.price_per_item(enrichment, media_kind)
    rating = model.rating.of(enrichment.capability)
    stars = "unrated" if rating is None else f"rated {rating}"
    unrated = f"unrated: it is used where an enrichment names it, model: {name}"
    obstacle = (
        (unrated if rating is None and not enrichment.model else None)
        or model.unsupported_reason(enrichment, media_kind)
        or _forbidden_reason(model, spec.policy, price)
        or _unavailable_reason(model)
    )
    pinned = "pinned in the spec; " if enrichment.model else ""
    where = "hosted" if model.hosted else "local"
    return Candidate(
        system=name,
        model_id=model.ref.id,
        rating=rating,
        hosted=model.hosted,
        price_per_item=price,
        usable=obstacle is None,
        why=obstacle or f"{pinned}{stars} for {enrichment.capability}, {where}",
        notice=model.notice,
    )


def _forbidden_reason(model: VisionModel, policy: Policy, price: float) -> str | None:
    """Why the policy does not allow a model, or None."""
    if model.hosted and policy.hosted == "deny":
        return "hosted, and policy.hosted is deny"
    if policy.licences and model.ref.licence not in policy.licences:
        return f"its licence is {model.ref.licence}, and policy.licences allows {', '.join(policy.licences)}"
    if policy.commercial_use and model.ref.commercial_use != "yes":
        return f"commercial use: {model.ref.commercial_use}, and policy.commercial_use is set"
    if policy.budget is not None and model.hosted:
        if not model.open_engine().is_metered:
            return "policy.budget is set, and what its requests cost cannot be counted before they are sent"
        if not model.price_is_known:
            return "its price is not known, and policy.budget is set; set usd_per_million_input and _output"
    if policy.max_price_per_item is not None and not model.price_is_known:
        return "its price is not known, and policy.max_price_per_item is set; set usd_per_million_input and _output"
    if policy.max_price_per_item is not None and price > policy.max_price_per_item:
        return f"${price:.4g} an item is above policy.max_price_per_item (${policy.max_price_per_item:.4g})"
    return None


def _unavailable_reason(model: VisionModel) -> str | None:
    """Why a model cannot be used on this machine, with the remedy, or None."""
    available = model.availability()
    return None if available.usable else f"{available.why}; {available.remedy}"


def _delivery(model: VisionModel, enrichment: Enrichment, media_kind: MediaKind, policy: Policy) -> DeliveryChoice:
    """How the requests of an enrichment reach its model: by a batch API where that is wished for and there is one."""
    if (enrichment.delivery or policy.delivery) == "direct":
        return DIRECTLY
    problem = model.open_engine().batch_problem(enrichment, media_kind)
    if len(model.effective_prompts(enrichment, media_kind)) > 1 or model.runs_per_frame(enrichment, media_kind):
        problem = problem or "it takes several requests an object"
    rates = model.rates if isinstance(model, HostedModel) else None
    if problem or rates is None or rates.batch is None:
        return DeliveryChoice(note=f"delivered directly: {problem or 'it has no price in batches'}")
    return DeliveryChoice(by="batch", price_share=rates.batch)


def check_models(spec: EnrichmentSpec) -> EnrichmentSpec:
    """The spec, if the systems that it names are known and take the settings that it gives them.

    Raises SpecError that lists every mistake, with its line where the spec was read from a file. Nothing is loaded or
    looked up: a saved block is not opened.
    """
    problems = []
    for name in spec.models:
        for key, problem in settings_problems(*spec.model_entry(name)):
            place = ("models", name, key) if key else ("models", name)
            advice = spec.quoting_advice(place) if "valid string" in problem else None
            problems.append(spec.explain(place, advice or problem))
    for index, enrichment in enumerate(spec.enrichments):
        model = enrichment.model
        if model is not None and model not in spec.models and (unknown := _unknown_problem(model, spec)):
            problems.append(spec.explain(("enrichments", index, "model"), f"{model!r} {unknown}"))
    if problems:
        raise SpecError("\n".join(problems))
    return spec


def _unknown_problem(model: str, spec: EnrichmentSpec) -> str | None:
    """Why an enrichment cannot name a model, or None."""
    problem = system_problem(model)
    return f"{problem}; or one of your `models`: {', '.join(spec.models)}" if problem and spec.models else problem


def resolve_enrichments(spec: EnrichmentSpec) -> tuple[RoutedEnrichment, ...]:
    """Bind every enrichment, for each kind of media it is asked of, to its systems and its recipe.

    A kind of media that no system takes is left out if another kind is served. Raises SpecError, before anything
    is listed, as `check_models` does, if an enrichment cannot be served at all, with the reason of every candidate, and
    if `policy.memory` is more than this process may take.
    """
    check_models(spec)
    if spec.runner.kind == "threads":  # else the machines of others are asked
        check_memory(spec)
    routed: list[RoutedEnrichment] = []
    problems: list[str] = []
    for index, enrichment in enumerate(spec.enrichments):
        routes = [route(enrichment, kind, spec) for kind in sorted(enrichment.media_kinds)]
        served = [r for r in routes if r.systems]
        if not served:
            reasons = "\n".join(f"    {c.system}: {c.why}" for c in routes[0].candidates)
            problem = f"enrichment {enrichment.name!r}: no system can serve it here:\n{reasons}"
            problems.append(spec.explain(("enrichments", index), problem))
        for chosen in served:
            model = open_model(*spec.model_entry(chosen.systems[0]))
            with blamed_on(chosen.systems[0], type(model)):
                recipe = model.recipe(enrichment, chosen.media_kind)
                delivery = _delivery(model, enrichment, chosen.media_kind, spec.policy)
            resolved = ResolvedEnrichment(enrichment, recipe, tuple(chosen.systems), chosen.media_kind, delivery)
            routed.append(RoutedEnrichment(resolved, chosen))
    if problems:
        raise SpecError("\n".join(problems))
    return tuple(routed)
