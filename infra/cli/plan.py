"""sightflow plan: what a run would do and cost, before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.infra.cli.screen import console, flag, safe, show_next, show_table
from sightflow.schemas.failure import SightflowError
from sightflow.schemas.money.words import count_of_tokens, length_of_time, money
from sightflow.schemas.run.discovered import Skipped
from sightflow.schemas.run.plan import EnrichmentPlan, RunPlan, Status, not_asked
from sightflow.schemas.run.selection import Selection

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="The YAML file that says what is wanted.")]
Prefix = Annotated[str, typer.Option(help="Only objects whose URI, or key, begins so.")]


def _moment(text: str) -> datetime:
    """A date or a time of ISO 8601, with its offset from UTC; without one, UTC is meant."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "is no date or time of ISO 8601; write 2026-11-01, 2026-11-01T06:00:00Z or 2026-11-01T08:00:00+02:00"
        ) from None


Since = Annotated[
    datetime | None,
    typer.Option(
        parser=_moment,
        metavar="TIME",
        help="Only objects modified since: 2026-11-01, 2026-11-01T08:00:00+02:00; without an offset, UTC.",
    ),
]
Sample = Annotated[float, typer.Option(min=0.000001, max=1, help="About this share of the objects, always the same.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many objects that have work left.")]


def selection(prefix: str, since: datetime | None, sample: float, limit: int | None) -> Selection:
    """The part of the work that the options name."""
    return Selection(prefix=prefix, since=since, sample=sample, limit=limit)


def plan(
    spec: SpecFile,
    prefix: Prefix = "",
    since: Since = None,
    sample: Sample = 1.0,
    limit: Limit = None,
    exact: Annotated[
        bool, flag("--exact", help="Send the vendors a sample, to have its tokens counted for nothing.")
    ] = False,
    verbose: Annotated[bool, flag("--verbose", "-v", help="Say of every other model why it is not used.")] = False,
    as_json: Annotated[bool, flag("--json", help="Print the plan as JSON, for programs.")] = False,
) -> None:
    """Count what is new, changed, stale and unchanged; show the model of each enrichment, tokens, price and time."""
    from sightflow.schemas.spec_reader import read_spec

    read = read_spec(spec)
    from sightflow.tasks.discover import discover
    from sightflow.tasks.open import open_catalog
    from sightflow.tasks.plan import plan as plan_task
    from sightflow.tasks.route import resolve_enrichments

    resolve_enrichments(read)  # what cannot be served is said before anything is listed
    with console.status("listing the source and comparing it with the catalog ..."):
        run_plan = plan_task.fn(discover.fn(read, check=False), read, selection(prefix, since, sample, limit))
        if exact:
            from sightflow.tasks.money.exact_counts import counted_by_vendors

            run_plan = counted_by_vendors(run_plan, read)
        problem = catalog_problem(open_catalog(read)) if run_plan.to_compute else ""
        budget = read.policy.budget
        outlook = ""
        if budget:
            from sightflow.infra.cli.budget import budget_outlook

            outlook = budget_outlook(open_catalog(read), budget, run_plan.price)
    if as_json:
        console.print_json(json.dumps(plan_document(run_plan) | {"catalog_problem": problem, "budget": outlook}))
        return
    show_plan(run_plan, verbose)
    if outlook:
        console.print(safe(outlook), soft_wrap=True)
    if problem:
        console.print(f"[yellow]note[/yellow] a run would stop at once: {safe(problem)}", soft_wrap=True)
    if run_plan.to_compute:
        show_next("sightflow", "run", spec)
    else:
        console.print("nothing to do")


def catalog_problem(catalog: Catalog) -> str:
    """Why a catalog cannot be written; empty if it can. Who may only read it can plan all the same."""
    try:
        catalog.check_writable()
    except SightflowError as error:
        return str(error)
    return ""


def plan_document(run_plan: RunPlan) -> dict[str, object]:
    """The plan as a JSON document."""
    return {
        "objects": run_plan.objects,
        "not_asked": run_plan.not_asked,
        "to_compute": run_plan.to_compute,
        "price_usd": run_plan.price,
        "seconds": run_plan.seconds,
        "skipped": [each.model_dump() for each in run_plan.skipped],
        "failed_lookups": sorted({item.uri for item in run_plan.failed_lookups}),
        "orphaned": run_plan.orphaned["uri"].to_list(),
        "enrichments": [p.model_dump(mode="json") for p in run_plan.plans],
    }


def show_plan(run_plan: RunPlan, verbose: bool = False) -> None:
    """Print what is counted, what it takes and how that is known, and the reason of each choice of a model."""
    _show_counts(run_plan)
    if run_plan.to_compute:
        _show_estimates(run_plan)
    for p in run_plan.plans:
        console.print(f"{safe(_name(p))}: {_why(p, verbose)}", soft_wrap=True)
        if p.estimate.known_by:
            console.print(f"  tokens, price and time: {safe(p.estimate.known_by)}", soft_wrap=True)
    show_delivery(run_plan.plans)
    show_stale(run_plan.plans)
    show_notices(run_plan.plans)
    show_skipped(run_plan.skipped)
    if run_plan.failed_lookups:
        uris = {item.uri for item in run_plan.failed_lookups}
        first = run_plan.failed_lookups[0]
        console.print(
            f"[yellow]note[/yellow] {len(uris):,} objects go to the quarantine: "
            f"{safe(first.uri)}: {safe(first.failure.message)}",
            soft_wrap=True,
        )
    if run_plan.not_asked:
        console.print(not_asked(run_plan.not_asked))
    if run_plan.orphaned.height:
        orphaned_rows = run_plan.orphaned["rows"].sum()
        console.print(
            f"{run_plan.orphaned.height:,} objects of the catalog are gone from the source ({orphaned_rows:,} rows); "
            "policy.prune: true removes them"
        )


def show_skipped(skipped: Iterable[Skipped]) -> None:
    """Print what could not be listed or looked up, and why."""
    for each in skipped:
        console.print(f"[yellow]note[/yellow] {safe(each.summary)}", soft_wrap=True)


def show_delivery(plans: Iterable[EnrichmentPlan]) -> None:
    """Print what goes by batch, and what does not though that is wished for."""
    for p in plans:
        if p.delivery.by == "batch":
            share = (
                f"by batch, at {p.delivery.price_share:.0%} of the price; collected later by: sightflow collect SPEC"
            )
            console.print(f"{safe(p.enrichment)}: {share}", soft_wrap=True)
        elif p.delivery.note:
            console.print(f"[yellow]note[/yellow] {safe(p.enrichment)}: {safe(p.delivery.note)}", soft_wrap=True)


def show_stale(plans: Iterable[EnrichmentPlan]) -> None:
    """Print why rows are stale."""
    for p in plans:
        if p.stale_because:
            reasons = "; ".join(p.stale_because)
            console.print(f"{safe(p.enrichment)}: {p.counts[Status.STALE]:,} stale: {safe(reasons)}", soft_wrap=True)


def show_notices(plans: Iterable[EnrichmentPlan]) -> None:
    """Print what the weights in use say of themselves, each once."""
    notices = dict.fromkeys((p.route.systems[0], p.route.notice) for p in plans if p.route.notice)
    for system, notice in notices:
        console.print(f"[yellow]note[/yellow] {safe(system)}: {safe(notice)}", soft_wrap=True)


def _name(p: EnrichmentPlan) -> str:
    return f"{p.enrichment} ({p.media_kind})"


def _show_counts(run_plan: RunPlan) -> None:
    """Print how many results are new, changed and so on; a status that no result has is left out."""
    shown = [s for s in Status if s in (Status.NEW, Status.UNCHANGED) or run_plan.count(s)]
    rows = [
        (_name(p), *(f"{p.counts.get(status, 0):,}" for status in shown), f"{p.to_compute:,}") for p in run_plan.plans
    ]
    numbers = (*map(str, shown), "to compute")
    show_table(f"{run_plan.objects:,} objects", "enrichment", *numbers, rows=rows, right=numbers)


def _show_estimates(run_plan: RunPlan) -> None:
    """Print what is left to compute, by enrichment, and all of it."""
    rows = [
        (
            _name(p),
            f"{p.to_compute:,}",
            p.route.systems[0],
            count_of_tokens(p.estimate.input_tokens),
            count_of_tokens(p.estimate.output_tokens),
            money(p.price),
            length_of_time(p.estimate.seconds),
        )
        for p in run_plan.plans
        if p.to_compute
    ]
    if len(rows) > 1:
        total = ("all", f"{run_plan.to_compute:,}", "", "", "", money(run_plan.price), length_of_time(run_plan.seconds))
        rows.append(total)
    columns = ("enrichment", "items", "model", "in", "out", "price", "time")
    title = "tokens in and out, price, time"
    show_table(title, *columns, rows=rows, right=("items", "in", "out", "price", "time"))


def _why(p: EnrichmentPlan, verbose: bool) -> str:
    first, *others = p.route.candidates
    why = f"[bold]{safe(first.system)}[/bold] ({safe(first.model_id)}), {safe(first.why)}"
    reasons = [f"\n  not {safe(other.system)}: {safe(other.why)}" for other in others if not other.usable]
    return why + ("".join(reasons) if verbose else "")
