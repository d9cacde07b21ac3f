"""route: which system serves an enrichment here, and why."""

from __future__ import annotations

from sightflow.blocks.models.registry import open_model, settings_problems, system_class, system_problem
from sightflow.blocks.models.systems import SYSTEMS
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.enrichment import Enrichment
from sightflow.schemas.failure import SpecError
from sightflow.schemas.run.plan import Candidate, ResolvedEnrichment, Route, RoutedEnrichment
from sightflow.schemas.spec import EnrichmentSpec, Policy
from sightflow.tasks.memory.limit import check_memory


def route(enrichment: Enrichment, media_kind: MediaKind, spec: EnrichmentSpec) -> Route:
    """Rank the systems for an enrichment: usable ones first, then by language, rating, local before hosted, price.

    A pinned model is the only candidate. Every candidate carries the reason of its place. Raises SpecError for a system
    that is not known, or settings that do not fit it.
    """
    systems = [enrichment.model] if enrichment.model else list(SYSTEMS)
    candidates = [_candidate(system, enrichment, media_kind, spec) for system in systems]
    languages = {enrichment.language, *spec.policy.languages} - {None}

    def rank(candidate: Candidate) -> tuple[object, ...]:
        speaks = languages <= set(system_class(candidate.system).rating.languages)
        return (
            not candidate.usable,
            not speaks,
            -candidate.rating,
            candidate.hosted,
            candidate.price_per_item,
            candidate.system,
        )

    return Route(capability=enrichment.capability, media_kind=media_kind, candidates=sorted(candidates, key=rank))


def _candidate(system: str, enrichment: Enrichment, media_kind: MediaKind, spec: EnrichmentSpec) -> Candidate:
    model = open_model(system, spec.models.get(system))
    price = model.price_per_item(enrichment, media_kind)
    rating = model.rating.of(enrichment.capability)
    obstacle = (
        model.unsupported_reason(enrichment, media_kind)
        or _forbidden_reason(model, spec.policy, price)
        or _unavailable_reason(model)
    )
    pinned = "pinned in the spec; " if enrichment.model else ""
    where = "hosted" if model.hosted else "local"
    return Candidate(
        system=system,
        model_id=model.ref.id,
        rating=rating,
        hosted=model.hosted,
        price_per_item=price,
        usable=obstacle is None,
        why=obstacle or f"{pinned}rated {rating} for {enrichment.capability}, {where}",
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
    if policy.max_price_per_item is not None and price > policy.max_price_per_item:
        return f"${price:.4g} an item is above policy.max_price_per_item (${policy.max_price_per_item:.4g})"
    return None


def _unavailable_reason(model: VisionModel) -> str | None:
    """Why a model cannot be used on this machine, with the remedy, or None."""
    available = model.availability()
    return None if available.usable else f"{available.why}; {available.remedy}"


def check_models(spec: EnrichmentSpec) -> EnrichmentSpec:
    """The spec, if the systems that it names are known and take the settings that it gives them.

    Raises SpecError that lists every mistake, with its line where the spec was read from a file. Nothing is loaded or
    looked up: a saved block is not opened.
    """
    problems = []
    for system, settings in spec.models.items():
        if unknown := system_problem(system):
            problems.append(spec.explain(("models", system), unknown))
            continue
        for name, problem in settings_problems(system, settings):
            place = ("models", system, name) if name else ("models", system)
            advice = spec.quoting_advice(place) if "valid string" in problem else None
            problems.append(spec.explain(place, advice or problem))
    for index, enrichment in enumerate(spec.enrichments):
        if enrichment.model is not None and (unknown := system_problem(enrichment.model)):
            problems.append(spec.explain(("enrichments", index, "model"), f"{enrichment.model!r} {unknown}"))
    if problems:
        raise SpecError("\n".join(problems))
    return spec


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
            model = open_model(chosen.systems[0], spec.models.get(chosen.systems[0]))
            recipe = model.recipe(enrichment, chosen.media_kind)
            resolved = ResolvedEnrichment(enrichment, recipe, tuple(chosen.systems), chosen.media_kind)
            routed.append(RoutedEnrichment(resolved, chosen))
    if problems:
        raise SpecError("\n".join(problems))
    return tuple(routed)
