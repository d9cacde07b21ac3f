"""sightflow bridge: turn storage notifications into runs."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from sightflow.infra.cli.plan import SpecFile
from sightflow.infra.cli.screen import console, safe, say
from sightflow.infra.cli.serving.worker import Metrics
from sightflow.schemas.failure import SpecError
from sightflow.schemas.spec_reader import read_spec

if TYPE_CHECKING:
    from sightflow.infra.service.notification_sources.message_source import MessageSource

Queue = Annotated[
    str | None,
    typer.Option(
        metavar="QUEUE",
        help="What the bucket notifies: the URL of a queue of SQS or Azure, or a Pub/Sub projects/P/subscriptions/S.",
    ),
]
Hook = Annotated[str | None, typer.Option(metavar="[HOST:]PORT", help="Listen for MinIO's webhook here.")]
BatchSeconds = Annotated[float, typer.Option(min=0.1, help="A run is started so long after the first upload ...")]
BatchObjects = Annotated[int, typer.Option(min=1, help="... or at so many objects.")]

Again = Annotated[float, typer.Option(min=1, help="Seconds until a batch that no run has finished is announced again.")]


def bridge(
    spec: SpecFile,
    queue: Queue = None,
    webhook: Hook = None,
    batch_seconds: BatchSeconds = 5.0,
    batch_objects: BatchObjects = 1000,
    again: Again = 120.0,
    metrics: Metrics = None,
) -> None:
    """Gather notifications of uploads into batches, each of which starts one run of what `deploy --on-upload` made.

    A message leaves the queue only when its objects are listed in a manifest beside the catalog.
    """
    from sightflow.tasks.route import check_models

    read = check_models(read_spec(spec))
    source = source_of(queue, webhook)
    from sightflow.infra.configured_server import await_api
    from sightflow.infra.metrics import serve_metrics
    from sightflow.infra.service.storage_events import Bridge, Window

    await_api(say)
    serve_metrics(metrics)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console.print(f"bridging uploads to {safe(read.catalog)}; stop with Ctrl-C", soft_wrap=True)
    Bridge(read, source, Window(batch_objects, batch_seconds), say, again).run(stop)
    console.print("stopped; what was received is durable or still in the queue")


def source_of(queue: str | None, webhook: str | None) -> MessageSource:
    """Where the notifications come from. Raises SpecError unless exactly one place is given."""
    if (queue is None) == (webhook is None):
        raise SpecError("give either --queue or --webhook")
    if queue:
        from sightflow.infra.service.notification_sources.choice import queue_at

        return queue_at(queue)
    from sightflow.infra.loopback import host_and_port
    from sightflow.infra.service.notification_sources.webhook import Webhook

    hook = Webhook(*host_and_port(webhook or ""))
    say(f"MinIO's endpoint is {hook.address}")
    return hook
