"""sightflow serve: a spec by schedule and on uploads, all in one process on one machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from sightflow.infra.cli.plan import SpecFile
from sightflow.infra.cli.screen import console, safe, say
from sightflow.infra.cli.serving.bridge import BatchObjects, BatchSeconds, Hook, Queue, source_of
from sightflow.infra.cli.serving.deploy import Cron, Interval, Name, Overlap, Timezone
from sightflow.infra.cli.serving.worker import Limit, Metrics, Poll
from sightflow.schemas.failure import SpecError

_FAREWELL_SECONDS = 30.0


def serve(
    spec: SpecFile,
    cron: Cron = None,
    timezone: Timezone = None,
    interval: Interval = None,
    queue: Queue = None,
    webhook: Hook = None,
    overlap: Overlap = "wait",
    name: Name = None,
    poll: Poll = 5.0,
    limit: Limit = 4,
    batch_seconds: BatchSeconds = 5.0,
    batch_objects: BatchObjects = 1000,
    metrics: Metrics = None,
) -> None:
    """Run a spec by schedule, on uploads, or both, until this is stopped.

    It uses the Prefect server that is configured, or starts one on this machine, whose runs are forgotten with it; the
    catalog forgets nothing. Ctrl-C or SIGTERM: the shards in flight are finished.
    """
    uploads = queue is not None or webhook is not None
    if cron is None and interval is None and not uploads:
        raise SpecError("say when: --cron, --interval, --queue or --webhook")
    from sightflow.infra.configured_server import configured_api
    from sightflow.infra.metrics import serve_metrics
    from sightflow.infra.prefect_server import prefect_api, server_lost
    from sightflow.infra.service.schedule import Schedule
    from sightflow.schemas.spec_reader import read_spec
    from sightflow.tasks.route import resolve_enrichments

    # What cannot be served, and when, is said before a server is started.
    read, schedule = read_spec(spec), Schedule(cron, interval, timezone)
    resolve_enrichments(read)
    source = source_of(queue, webhook) if uploads else None
    serve_metrics(metrics)
    with prefect_api(for_one_run=False, say=_end_without_server) as server:
        with console.status("starting Prefect on this machine"):
            if server is not None:
                server.wait()
            from sightflow.infra.service.deployments import deploy, pause
            from sightflow.infra.service.storage_events import Bridge, Window
            from sightflow.infra.service.worker import run_worker

            called = name or spec.stem
            # A pool of its own: what it serves goes with it, and no other worker waits for it.
            pool = f"sightflow-serve-{called}"
            made = deploy(called, read, schedule, uploads, overlap, pool)
        runs = ", ".join(each.starts for each in made)
        console.print(f"serving [bold]{safe(spec)}[/bold] {safe(runs)}; see {safe(configured_api())}", soft_wrap=True)
        if server is not None:
            login = safe(server.write_login())
            console.print(f"the page asks for a password; it is in {login}, until this is stopped", soft_wrap=True)
        console.print("stop with Ctrl-C; what was committed stays, and the next run goes on from there")
        stop = threading.Event()
        if source is not None:
            window = Window(batch_objects, batch_seconds)
            bridge = Bridge(read, source, window, say)
            bridging = threading.Thread(target=_or_end, args=(bridge.run, stop), daemon=True)
            bridging.start()
        run_worker(pool, poll, limit, say)
        stop.set()
        if source is not None:
            bridging.join(timeout=5)
        if server is not None and server.has_ended:
            raise server_lost()
        if server is None:
            pause(made)


def _end_without_server(why: str) -> None:
    """Let the runs publish what they have begun, and end; their states can be given to nobody any more."""
    say(why)
    say(f"this ends in {_FAREWELL_SECONDS:g} s at the latest; committed rows stay; start it again")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_FAREWELL_SECONDS)
    os._exit(1)


def _or_end(run: Callable[[threading.Event], None], stop: threading.Event) -> None:
    """Run the bridge; should it fail, end the whole service, to be started again by whoever keeps it."""
    try:
        run(stop)
    finally:
        if not stop.is_set():
            say("the bridge has ended; so does all else")
            os.kill(os.getpid(), signal.SIGTERM)
