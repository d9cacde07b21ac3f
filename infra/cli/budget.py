"""sightflow budget: what was spent on providers, what is held, and what is left."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from sightflow.infra.cli.catalog import Endpoint, Uri, named_catalog
from sightflow.infra.cli.screen import console, flag, safe, show_table

_SHOWN = 31
"""Rows of a table, the latest."""


def budget(
    uri: Uri,
    as_json: Annotated[bool, flag("--json", help="Print it as JSON, for programs.")] = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Show what was spent by day, month and run, and what processes and batches hold; of a spec file, what is left."""
    from sightflow.blocks.money.ledger import Ledger
    from sightflow.schemas.policy import Budget
    from sightflow.schemas.spec_reader import is_spec_file, read_spec

    allowed = (read_spec(uri).policy.budget if is_spec_file(uri) else None) or Budget()
    catalog = named_catalog(uri, endpoint_url)
    document = budget_document(Ledger(catalog.store, catalog.uri).balance(), allowed, datetime.now(UTC))
    if as_json:
        console.print_json(json.dumps(document))
        return
    numbers = ("spent", "unknown", "held", "budget", "left")
    for title in ("months", "days", "runs"):
        rows = [
            (each["name"], *("" if each[f"{name}_usd"] is None else f"${each[f'{name}_usd']:,.4f}" for name in numbers))
            for each in document[title][:_SHOWN]
        ]
        if rows:
            show_table("", title[:-1], *numbers, rows=rows, right=numbers)
    for each in document["blocks"]:
        console.print(f"held by {safe(each['holder'])} for run {safe(each['run'])}: ${each['held_usd']:,.4f}")
    if not document["months"]:
        console.print("nothing was spent under a budget; set policy.budget in the spec: {day: 50}")
    else:
        console.print(
            "unknown: sent and never answered, at the most that it may have cost; held: counts until it is given back, "
            "by a batch when it is collected: sightflow collect SPEC",
            soft_wrap=True,
        )


def budget_document(balance: Any, allowed: Any, moment: datetime) -> dict[str, list[dict[str, Any]]]:
    """A balance as a JSON document, newest first; amounts in US dollars."""
    from sightflow.blocks.money.balance import OF_A_BATCH, PER_DOLLAR

    day = f"{moment:%Y-%m-%d}"
    now = {"month": (day[:7], allowed.month), "day": (day, allowed.day), "run": (None, allowed.run)}

    def part(scope: str, name: str) -> dict[str, Any]:
        spent, held = balance.spent(scope, name), balance.reserved(scope, name)
        cap = now[scope][1] if now[scope][0] in (None, name) else None
        used = (spent.total + held) / PER_DOLLAR
        return {
            "name": name,
            "spent_usd": spent.known / PER_DOLLAR,
            "unknown_usd": spent.unknown / PER_DOLLAR,
            "held_usd": held / PER_DOLLAR,
            "budget_usd": cap,
            "left_usd": None if cap is None else max(0.0, cap - used),
        }

    blocks = balance.blocks.values()
    names = {
        "month": {*balance.months, *(block.day[:7] for block in blocks)},
        "day": {*balance.days, *(block.day for block in blocks)},
    }
    if balance.months or blocks:
        names["month"].add(day[:7])
        names["day"].add(day)
    runs = list(dict.fromkeys([*balance.runs, *(block.run for block in blocks)]))
    return {
        "months": [part("month", name) for name in sorted(names["month"], reverse=True)],
        "days": [part("day", name) for name in sorted(names["day"], reverse=True)],
        "runs": [part("run", name) for name in reversed(runs)],
        "blocks": [
            {
                "holder": each.holder,
                "run": each.run,
                "day": each.day,
                "held_usd": each.reserved / PER_DOLLAR,
                "batch": name.removeprefix(OF_A_BATCH) if name.startswith(OF_A_BATCH) else None,
            }
            for name, each in balance.blocks.items()
        ],
    }


def budget_outlook(catalog: Any, allowed: Any, price: float) -> str:
    """What a budget has left for a run now, and whether its estimated price is within that."""
    from sightflow.blocks.money.balance import PER_DOLLAR, dollars, room
    from sightflow.blocks.money.ledger import Ledger

    left = room(Ledger(catalog.store, catalog.uri).balance(), allowed, "", datetime.now(UTC))
    if left.scope is None:
        return "budget: no bound is set; what is spent is counted"
    outlook = f"budget: {dollars(max(left.left, 0))} of the {left.scope}'s {dollars(left.cap)} are left"
    if price * PER_DOLLAR <= left.left:
        return outlook
    again = f", and more from {left.until:%Y-%m-%d %H:%M} UTC" if left.until else ", and the next run has its own"
    return f"{outlook}{again}: the run would stop when they are used up"
