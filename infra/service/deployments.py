"""Deployments of a spec on a Prefect server: what runs it by schedule, and what runs it on uploads.

Made again, everything is as if made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import Flow
from prefect.types.entrypoint import EntrypointType

from sightflow.flows.collect import collect
from sightflow.flows.enrich import enrich
from sightflow.infra.service.schedule import Schedule
from sightflow.infra.service.worker import POOL, ModelWorker
from sightflow.schemas.failure import SightflowError, SpecError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.tasks.route import check_models

UPLOADS_EVENT = "sightflow.uploads"
Overlap = Literal["wait", "skip"]
BY_HAND = Schedule()
COLLECTED = Schedule(interval=600)
"""How often what vendors have answered by batch is looked for: most batches are done within the hour."""
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


@dataclass(frozen=True)
class Deployed:
    """A deployment as it now stands on the server; `pool_type`: of its work pool, which may be somebody else's."""

    name: str
    starts: str
    id: str
    pool_type: str


def resource_of(catalog: str) -> str:
    """How Prefect's events name a catalog: `prefect.resource.id`."""
    return f"sightflow.catalog.{catalog}"


def make_pool(name: str = POOL) -> str:
    """Make the work pool if it is not there; return the type of the one that is."""
    with get_client(sync_client=True) as client:
        try:
            return str(client.read_work_pool(name).type)
        except ObjectNotFound:
            pool = WorkPoolCreate(
                name=name,
                type=ModelWorker.type,
                description="Runs of Sightflow; start a worker for it with: sightflow worker",
                base_job_template=ModelWorker.get_default_base_job_template(),
            )
            try:
                client.create_work_pool(pool)
            except ObjectAlreadyExists:  # made by somebody else in this moment
                return str(client.read_work_pool(name).type)
            return ModelWorker.type


def deploy(
    name: str,
    spec: EnrichmentSpec,
    schedule: Schedule = BY_HAND,
    on_upload: bool = False,
    overlap: Overlap = "wait",
    pool: str = POOL,
    notify: str | None = None,
) -> list[Deployed]:
    """Make or renew the deployments of a spec, with their pool, schedule, limit and automation.

    `NAME` brings the whole catalog up to date, by schedule or when somebody starts it, one run at a time.
    `collect/NAME` publishes every ten minutes what vendors have answered by batch, where the spec has any asked so.
    `NAME-uploads` (`on_upload`) runs once for each batch of uploads that the bridge announces; without it, one that was
    there goes.
    `notify`: a saved notification block, `TYPE/NAME`, e.g. `slack-webhook/ops`, which is told of every run that failed.
    Raises SightflowError if the server refuses, SpecError if there is no such block, or the spec names code.
    """
    parameters = {"spec": spec.model_dump(mode="json")}
    check_models(EnrichmentSpec.model_validate(parameters["spec"]))  # as a run will find it
    block = _block(notify) if notify else None
    pool_type = make_pool(pool)
    strategy = ConcurrencyLimitStrategy.ENQUEUE if overlap == "wait" else ConcurrencyLimitStrategy.CANCEL_NEW
    whole = _apply(
        name,
        parameters,
        pool,
        **schedule.settings,
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=strategy),
    )
    if block:
        _tell_of_failures(name, whole, block)
    made = [Deployed(f"{enrich.name}/{name}", schedule.words, whole, pool_type)]
    if spec.delivers_by_batch:
        collecting = _apply(name, parameters, pool, collect, **COLLECTED.settings, concurrency_limit=ONE_AT_A_TIME)
        if block:
            _tell_of_failures(f"{name}: collect", collecting, block)
        made.append(Deployed(f"{collect.name}/{name}", COLLECTED.words, collecting, pool_type))
    else:
        _remove(name, collect)
    uploads = f"{name}-uploads"
    if not on_upload:
        _remove(uploads)
        return made
    trigger = DeploymentEventTrigger(
        name=f"{name}: uploads",
        expect={UPLOADS_EVENT},
        match={"prefect.resource.id": resource_of(spec.catalog)},
        parameters={"selection": {"manifest": "{{ event.resource['manifest'] }}"}},
    )
    triggered = _apply(uploads, parameters, pool, triggers=[trigger])
    if block:
        _tell_of_failures(uploads, triggered, block)
    return [*made, Deployed(f"{enrich.name}/{uploads}", "on uploads", triggered, pool_type)]


def pause(made: Sequence[Deployed]) -> None:
    """Let deployments start no more runs by themselves."""
    with get_client(sync_client=True) as client:
        for deployed in made:
            client.pause_deployment(UUID(deployed.id))


def _apply(name: str, parameters: Mapping[str, Any], pool: str, flow: Flow[Any, Any] = enrich, **settings: Any) -> str:
    deployment: Any = flow.to_deployment(
        name=name,
        parameters=dict(parameters),
        tags=["sightflow"],
        # By its module, which is installed wherever a worker is: no code is fetched.
        entrypoint_type=EntrypointType.MODULE_PATH,
        work_pool_name=pool,
        **settings,
    )
    try:
        return str(deployment.apply())
    except Exception as error:
        raise SightflowError(f"Prefect does not take the deployment {name!r}: {error}") from error


def _block(name: str) -> UUID:
    """The id of a saved notification block."""
    kind, _, saved = name.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(saved, kind).id
        except ObjectNotFound:
            raise SpecError(
                f"there is no saved block {name!r}; it is written TYPE/NAME, e.g. slack-webhook/ops; "
                "see: prefect block ls"
            ) from None


def _tell_of_failures(name: str, deployment: str, block: UUID) -> None:
    """Add an automation that belongs to the deployment, and so is renewed and removed with it."""
    owner = f"prefect.deployment.{deployment}"
    automation = AutomationCore(
        name=f"{name}: tell of failures",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match_related=ResourceSpecification({"prefect.resource.id": owner}),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="Sightflow: {{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
            )
        ],
        owner_resource=owner,
    )
    with get_client(sync_client=True) as client:
        client.create_automation(automation)


def _remove(name: str, flow: Flow[Any, Any] = enrich) -> None:
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(f"{flow.name}/{name}")
        except ObjectNotFound:
            return
        client.delete_resource_owned_automations(f"prefect.deployment.{found.id}")
        client.delete_deployment(found.id)
