"""A run that this process starts: with nothing to do it is over before Prefect or a model's library is loaded."""

from __future__ import annotations

import logging
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from sightflow.infra.configured_server import configured_url
from sightflow.schemas.run.plan import RoutedEnrichment, RunPlan
from sightflow.schemas.run.report import RunReport
from sightflow.schemas.run.selection import EVERYTHING, Selection
from sightflow.schemas.run.timing import Span, StartStep, process_name, timed
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.runtime.run_start import RUN_START, RunStart

if TYPE_CHECKING:
    from sightflow.infra.server_process import PrefectServer

_logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Is told what is going on, and of the run itself what the publisher tells."""

    def say(self, what: str) -> None: ...
    def planned(self, run_plan: RunPlan) -> None: ...
    def advanced(self, published: int, quarantined: int) -> None: ...


class Nobody:
    """Watches nothing."""

    def say(self, what: str) -> None: ...
    def planned(self, run_plan: RunPlan) -> None: ...
    def advanced(self, published: int, quarantined: int) -> None: ...


def run_enrich(
    spec: EnrichmentSpec,
    chosen: Selection = EVERYTHING,
    watcher: Watcher | None = None,
    began_at: float | None = None,
) -> RunReport:
    """Run the flow on the configured Prefect server, or on one of our own, which is started if there is work to do.

    A configured server is told of every run. `began_at`: when this process began, in seconds since the epoch.
    Raises SpecError, before anything is listed or started, if an enrichment cannot be served.
    """
    watcher, start = watcher or Nobody(), RunStart()
    if began_at is not None:
        start.spans.append(Span(StartStep.IMPORTS, process_name(), began_at, time.time()))
    if configured_url() or _is_known_by_prefect(spec) or chosen.manifest is not None:
        _resolve(spec)
    elif _plan_ahead(start, spec, chosen, watcher).changes_nothing(spec.policy.prune):
        return _report_of_nothing(start, spec)
    started_at = time.time()
    from sightflow.infra.prefect_server import prefect_api

    with prefect_api() as server:
        return enrich_on(server, spec, chosen, watcher, start, started_at)


def enrich_on(
    server: PrefectServer | None,
    spec: EnrichmentSpec,
    chosen: Selection = EVERYTHING,
    watcher: Watcher | None = None,
    start: RunStart | None = None,
    started_at: float | None = None,
) -> RunReport:
    """Run the flow; `server`: our own, perhaps still starting, since `started_at`, or None for the configured one."""
    from sightflow.tasks.runtime.publisher import LISTENER

    watcher, start = watcher or Nobody(), start or RunStart()
    # The server takes seconds to start; what takes long to load uses the same seconds.
    readying = threading.Thread(target=_get_ready, args=(spec, start), daemon=True)
    readying.start()
    if server is not None:
        watcher.say("starting Prefect on this machine")
        server.wait()
        if started_at is not None:
            start.spans.append(Span(StartStep.SERVER, process_name(), started_at, time.time()))
    watcher.say("loading libraries and models")
    readying.join()
    from prefect import tags

    from sightflow.flows.enrich import enrich

    watcher.say("planned" if start.run_plan else "listing the source and planning")
    tokens = LISTENER.set(watcher), RUN_START.set(start)
    try:
        with tags("sightflow"):
            return enrich(spec, chosen)
    finally:
        LISTENER.reset(tokens[0])
        RUN_START.reset(tokens[1])


def run_collect(spec: EnrichmentSpec) -> RunReport | None:
    """Run the flow `collect` on the configured Prefect server, or on one of our own; None, with nothing started, if no
    batch of the catalog is unsettled, and none that has ended holds anything of the budget.
    """
    if not _is_known_by_prefect(spec):
        from sightflow.blocks.catalog.batch_log import BatchLog
        from sightflow.tasks.batches.budget import holds_of
        from sightflow.tasks.open import open_catalog

        ended = all(batch.state.is_settled for batch in BatchLog(open_catalog(spec)).batches())
        if ended and not holds_of(spec).held():
            return None
    from sightflow.infra.prefect_server import prefect_api

    with prefect_api() as server:
        if server is not None:
            server.wait()
        from prefect import tags

        from sightflow.flows.collect import collect

        with tags("sightflow"):
            return collect(spec)


def _resolve(spec: EnrichmentSpec) -> tuple[RoutedEnrichment, ...]:
    from sightflow.tasks.route import resolve_enrichments

    return resolve_enrichments(spec)


def _is_known_by_prefect(spec: EnrichmentSpec) -> bool:
    """Whether a part of the spec is a saved block, which Prefect is asked for."""
    of_models = any("block" in settings for settings in spec.models.values())
    return of_models or bool(spec.store.block or spec.store.credentials)


def _plan_ahead(start: RunStart, spec: EnrichmentSpec, chosen: Selection, watcher: Watcher) -> RunPlan:
    """Give the run its plan, which its flow does not make again."""
    from sightflow.schemas.tables.inventory import Inventory
    from sightflow.tasks.discover import discover
    from sightflow.tasks.plan import plan

    routed = _resolve(spec)
    watcher.say("listing the source and planning")
    discovered = discover.without_prefect(spec, chosen, check=False)
    start.run_plan = plan.without_prefect(discovered, spec, chosen, routed)
    if not start.run_plan.changes_nothing(spec.policy.prune):
        Inventory.validate(discovered.inventory)
    return start.run_plan


def _report_of_nothing(start: RunStart, spec: EnrichmentSpec) -> RunReport:
    from sightflow.tasks.report import report_of_nothing

    assert start.run_plan is not None
    return report_of_nothing(start, start.run_plan, spec)


def _get_ready(spec: EnrichmentSpec, start: RunStart) -> None:
    """Load what the run needs; whatever fails here fails in the run, which says what is wrong."""
    from sightflow.tasks.runtime.preload import preload

    with timed(start.spans, StartStep.IMPORTS):
        preload(spec, is_planned=start.run_plan is not None)
        import_module("sightflow.flows.enrich")
    if start.run_plan is None or not start.run_plan.to_compute or spec.runner.kind != "threads":
        return
    from sightflow.tasks.runtime.loaded_models import load_model

    system = start.run_plan.frame["system"][0]
    try:
        with timed(start.spans, StartStep.MODEL):
            load_model(*spec.model_entry(system))
    except Exception as error:
        _logger.debug("%s is not loaded ahead of the run: %s", system, error)
