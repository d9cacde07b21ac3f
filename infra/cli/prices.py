"""sightflow models prices: what tokens cost today, and on the day of a schedule's next run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightflow.infra.cli.screen import console, flag, safe, show_table
from sightflow.schemas.money import calendar_day
from sightflow.schemas.money.rates import Rates, TokenRates

if TYPE_CHECKING:
    from sightflow.blocks.models.prices.listed_price import ListedPrice
    from sightflow.blocks.models.vision_model import VisionModel


@dataclass(frozen=True)
class Priced:
    """A model, by the name that the spec gives it, with what its tokens cost now and then; None: not known."""

    name: str
    model_id: str
    now: Rates | None
    then: Rates | None
    source: str
    read_on: date | None
    notice: str


def prices(
    spec: Annotated[Path | None, typer.Argument(metavar="[SPEC]", help="Only the models that a spec uses.")] = None,
    cron: Annotated[str | None, typer.Option(help="The schedule whose next run is meant, as for `deploy`.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Of --cron: an IANA name, e.g. Europe/Berlin.")] = None,
    on: Annotated[str | None, typer.Option(metavar="DATE", help="Instead of a schedule: a day, 2027-01-01.")] = None,
    as_json: Annotated[bool, flag("--json", help="Print the prices as JSON, for programs.")] = False,
) -> None:
    """Show what a million tokens cost today and on the day of the next run, where that is known from, and what changes.

    Nothing is asked of a network but a configured Prefect server, for the next run of the spec's deployment.
    """
    today = calendar_day.today()
    then = _day_of(on) if on else _next_run(spec, cron, timezone)
    found = list(_of_spec(spec, today, then) if spec else _of_all(today, then))
    if as_json:
        console.print_json(json.dumps([_document(each, today, then) for each in found]))
        return
    _show(found, today, then)
    if spec:
        _show_hour(spec)


def _show_hour(path: Path) -> None:
    """Say what an hour of a model at work here costs, where the spec does."""
    from sightflow.schemas.spec_reader import read_spec

    if hour := read_spec(path).policy.gpu_hour_usd:
        console.print(f"models here: ${hour:g} for an hour at work, by policy.gpu_hour_usd")


def _day_of(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter("is no day of ISO 8601; write 2027-01-01") from None


def _next_run(spec: Path | None, cron: str | None, timezone: str | None) -> date | None:
    """The day (UTC) of the next run by this cron, or of the spec's deployments on a configured server; None if there is
    none.
    """
    if cron or timezone:
        from sightflow.infra.service.schedule import Schedule

        start = Schedule(cron=cron, timezone=timezone).next_start()
        return start.astimezone(UTC).date() if start else None
    if spec is None:
        return None
    from sightflow.infra.configured_server import configured_url

    if not configured_url():
        return None
    from sightflow.infra.service.next_run import next_run_of
    from sightflow.schemas.spec_reader import read_spec

    start = next_run_of(read_spec(spec).catalog)
    return start.astimezone(UTC).date() if start else None


def _of_spec(path: Path, today: date, then: date | None) -> Iterator[Priced]:
    """The models that its enrichments are asked of here."""
    from sightflow.blocks.models.registry import open_model
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.route import resolve_enrichments

    spec = read_spec(path)
    chosen = dict.fromkeys(route.candidates[0].system for _, route in resolve_enrichments(spec))
    for name in chosen:
        yield _priced(name, open_model(*spec.model_entry(name)), today, then)


def _of_all(today: date, then: date | None) -> Iterator[Priced]:
    """Every id that has a profile here."""
    from sightflow.blocks.models.hosted_model import HostedModel
    from sightflow.blocks.models.registry import system_class
    from sightflow.blocks.models.systems import SYSTEMS

    for name in SYSTEMS:
        model = system_class(name)
        if issubclass(model, HostedModel):
            for model_id in model.profiles:
                yield _priced(name, model(id=model_id), today, then)


def _priced(name: str, model: VisionModel, today: date, then: date | None) -> Priced:
    listed: ListedPrice | None = getattr(model, "listed_price", None)
    own = any(getattr(model, f"usd_per_million_{each}", None) is not None for each in ("input", "output"))
    source = "" if not model.hosted else "the settings" if own else listed.source if listed else ""
    return Priced(
        name,
        model.ref.id,
        model.rates_on(today),
        model.rates_on(then) if then else None,
        source,
        listed.read_on if listed and not own else None,
        model.notice,
    )


def _show(found: list[Priced], today: date, then: date | None) -> None:
    rows = []
    for each in found:
        now = each.now
        cells = [each.model_id, *_cells(now), f"{now.batch:g}" if now and now.batch is not None else "-"]
        rows.append((*cells, *(_cells(each.then)[:2] if then else ()), str(each.read_on or "")))
    later = ("then in", "then out") if then else ()
    numbers = ("in", "out", "cached", "batch", *later)
    title = f"US dollars a million tokens, {today}" + (f"; then: {then}" if then else "")
    show_table(title, "model", *numbers, "read", rows=rows, right=numbers)
    for each in found:
        for step in each.now.steps if each.now else ():
            inner = step.rates
            console.print(
                f"{safe(each.model_id)}: ${inner.input:g} in, ${inner.output:g} out for prompts of more than "
                f"{step.above:,} tokens",
                soft_wrap=True,
            )
    for each in found:
        if each.notice:
            console.print(f"[yellow]note[/yellow] {safe(each.notice)}", soft_wrap=True)
    for source in dict.fromkeys(each.source for each in found if each.source):
        console.print(f"from {safe(source)}", soft_wrap=True)


def _cells(rates: Rates | None) -> tuple[str, str, str]:
    if rates is None:
        return "?", "?", "?"
    if not rates.input and not rates.output:
        return "free", "free", "free"
    return f"{rates.input:g}", f"{rates.output:g}", "-" if rates.cached is None else f"{rates.cached:g}"


def _document(each: Priced, today: date, then: date | None) -> dict[str, Any]:
    return {
        "model": each.name,
        "model_id": each.model_id,
        "today": _rates(each.now, today),
        "next_run": _rates(each.then, then) if then else None,
        "source": each.source,
        "read_on": each.read_on and each.read_on.isoformat(),
        "notice": each.notice,
    }


def _rates(rates: Rates | None, day: date) -> dict[str, Any] | None:
    if rates is None:
        return None
    steps = [{"above": step.above, **_of_tokens(step.rates)} for step in rates.steps]
    until = next((each.since - timedelta(days=1) for each in rates.later if each.since), None)
    return {
        "day": day.isoformat(),
        **_of_tokens(rates.base),
        "batch": rates.batch,
        "steps": steps,
        "until": until and until.isoformat(),
    }


def _of_tokens(rates: TokenRates) -> dict[str, float | None]:
    names = ("input", "output", "cached", "written", "audio")
    return {name: getattr(rates, name) for name in names}
