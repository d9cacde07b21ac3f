"""What batches may cost, held in the ledger from before a vendor begins until its results say what they have cost."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from sightflow.blocks.catalog.batch_log import BatchLog
from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.contract import BatchDelivery
from sightflow.blocks.money.balance import Room
from sightflow.blocks.money.batch_holds import BatchHolds, nanodollars
from sightflow.blocks.money.journal import journal_folder
from sightflow.blocks.money.recovery import recover
from sightflow.schemas.run.batch import Batch, BatchedRequest
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.batches import BatchState
from sightflow.tasks.batches.result_lines import lines_of
from sightflow.tasks.runtime.spending import ledger_of


def holds_of(spec: EnrichmentSpec) -> BatchHolds:
    """What the batches of a spec's catalog hold, whether the spec has a budget now or not."""
    return BatchHolds(ledger_of(spec))


class SubmissionBudget:
    """What a run may still submit. Without a budget everything, and nothing is held."""

    def __init__(self, spec: EnrichmentSpec, run_id: str) -> None:
        self._budget, self._run = spec.policy.budget, run_id
        self.holds = holds_of(spec)
        if self._budget is not None:
            recover(ledger_of(spec), journal_folder(spec.catalog))

    def check(self, amount: int) -> None:
        """Raise RequestTooExpensive for nanodollars that no budget of this size ever allows."""
        if self._budget is not None:
            self.holds.check(self._budget, self._run, amount)

    def room(self) -> Room:
        """What may be submitted now."""
        return Room(10**21) if self._budget is None else self.holds.room(self._budget, self._run)

    def reserve(self, batch: Batch, requests: Iterable[BatchedRequest]) -> None:
        """Hold what the requests of a batch may cost at most. Raises BudgetMet, and holds nothing."""
        amount = most_of(requests)
        if self._budget is not None and amount:
            holder = f"the batch {batch.batch_id[:8]} at {batch.vendor}"
            self.holds.reserve(batch.batch_id, holder, self._budget, self._run, amount)


def most_of(requests: Iterable[BatchedRequest]) -> int:
    """What requests may cost at most together, nanodollars."""
    return sum(nanodollars(request.most_usd) for request in requests)


def settle(
    batch: Batch,
    requests: Sequence[BatchedRequest],
    files: Sequence[Path],
    delivery: BatchDelivery,
    holds: BatchHolds,
    untold_is_free: bool,
) -> None:
    """Settle a batch that has ended by what its results say; what was never begun has cost nothing.

    `untold_is_free`: what the files do not tell of was never begun. Else it counts at the most that it may have cost,
    as does one request for each line that cannot be read. Only the first time that a batch is settled counts.
    """
    if batch.batch_id not in holds.held():
        return
    waiting = {request.custom_id: request for request in requests}
    costs: list[float] = []
    unknown: list[BatchedRequest] = []
    never_begun, unreadable = set[str](), 0
    for line in lines_of(files):
        found = delivery.result(line, batch.recorded_at) if line else None
        if found is None:
            unreadable += 1
        elif found.output is None:
            never_begun.add(found.custom_id)
        elif (request := waiting.pop(found.custom_id, None)) is not None:
            costs.append(found.cost_usd or 0.0)
            if found.cost_usd is None:
                unknown.append(request)
    untold = [request for custom_id, request in waiting.items() if custom_id not in never_begun]
    left = heapq.nlargest(unreadable if untold_is_free else len(untold), untold, key=lambda each: each.most_usd)
    holds.settle(batch.batch_id, math.fsum(costs), most_of([*unknown, *left]))


def settle_left(catalog: Catalog, spec: EnrichmentSpec) -> None:
    """Settle what batches hold that have ended, and whose process was killed before it could say so: all of one that
    was never begun is given back, and all of one that was given up counts.
    """
    holds = holds_of(spec)
    if not (held := holds.held()):
        return
    states = {batch.batch_id: batch.state for batch in BatchLog(catalog).batches()}
    for batch_id in held:
        state = states.get(batch_id)
        if state is BatchState.ABANDONED:
            holds.settle(batch_id)
        elif state is None or state.is_settled:
            holds.settle_as_unknown(batch_id)
