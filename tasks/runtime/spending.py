"""What the requests of a run cost, counted against the budget in each process that makes any."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from sightflow.blocks.models.metering import METER
from sightflow.blocks.money.allowance import Allowance
from sightflow.blocks.money.journal import journal_folder
from sightflow.blocks.money.ledger import Ledger
from sightflow.blocks.money.recovery import recover
from sightflow.schemas.failure import SightflowError
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.open import open_store
from sightflow.tasks.runtime.task_runner import WorkerPool

_logger = logging.getLogger(__name__)

_ABANDONED_SECONDS = 60.0
_ALLOWANCES: dict[tuple[str, str], Allowance] = {}
"""Of this process, by catalog and run."""
_OPENING = threading.Lock()


@contextmanager
def metered(spec: EnrichmentSpec, run_id: str, asks_anew: bool) -> Iterator[None]:
    """Within, what models ask of providers is counted against the spec's budget, if it has one.

    `asks_anew`: what is in quarantine is asked again, and no answer of before is taken for it.
    """
    if spec.policy.budget is None:
        yield
        return
    with _allowance(spec, run_id, asks_anew) as allowance:
        token = METER.set(allowance)
        try:
            yield
        finally:
            METER.reset(token)


def ledger_of(spec: EnrichmentSpec) -> Ledger:
    """The ledger beside a spec's catalog."""
    return Ledger(open_store(spec.store), spec.catalog)


def _allowance(spec: EnrichmentSpec, run_id: str, asks_anew: bool) -> Allowance:
    assert spec.policy.budget is not None
    key = (spec.catalog, run_id)
    with _OPENING:
        for other in [each for each in _ALLOWANCES if each[0] == spec.catalog and each != key]:
            if _ALLOWANCES[other].idle_seconds > _ABANDONED_SECONDS:  # its run has died elsewhere
                _close(_ALLOWANCES.pop(other), published=False)
        if key not in _ALLOWANCES:
            _ALLOWANCES[key] = Allowance(
                ledger_of(spec), spec.policy.budget, run_id, journal_folder(spec.catalog), asks_anew, _asks(spec)
            )
        _ALLOWANCES[key].is_wanted()
        return _ALLOWANCES[key]


def _asks(spec: EnrichmentSpec) -> str:
    """What tells a spec's questions from those of another spec of the same catalog: of what, and by which names."""
    names = sorted(each.name or "" for each in spec.enrichments)
    return sha256(json.dumps([names, sorted(spec.source)]).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@contextmanager
def spending(
    spec: EnrichmentSpec, run_id: str, selection: Selection | None, workers: WorkerPool, price: float = 0.0
) -> Iterator[None]:
    """The time in which a run asks. At its end every process gives back what it holds of the budget, and what
    processes that have died held is settled. If it ends well, the answers in journals have been published, and go.

    `selection`: what the run was about; None of a `collect`, which is about what it has asked itself. `price`: what it
    is expected to cost; if anything, the ledger is read while the first objects are fetched.
    """
    published = False
    if spec.policy.budget is not None and price and workers.client is None and selection is not None:
        _allowance(spec, run_id, selection.replay)
    try:
        yield
        published = True
    finally:
        if spec.policy.budget is not None:
            whole = selection == EVERYTHING and not spec.partial
            try:
                workers.everywhere(close_allowance, spec.catalog, run_id, published, whole)
                recover(ledger_of(spec), journal_folder(spec.catalog))
            except Exception as error:  # whatever it is: the next run settles it, and until then it counts as spent
                _logger.warning("what is left of the budget is not given back yet: %s", error)


def close_allowance(catalog_uri: str, run_id: str, published: bool, whole: bool) -> None:
    """Settle what this process has spent for a run. `whole`: it was a run of everything, so that no answer of another
    is waited for either, if it was `published`.
    """
    with _OPENING:
        allowance = _ALLOWANCES.pop((catalog_uri, run_id), None)
    if allowance is not None:
        _close(allowance, published, whole)


def _close(allowance: Allowance, published: bool, whole: bool = False) -> None:
    try:
        allowance.close(published, whole)
    except SightflowError as error:
        _logger.warning("what is left of the budget is not given back yet: %s", error)
