"""The command line: `sightflow`. Each command is a thin screen over the flows and blocks.

Heavy libraries are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import warnings
from typing import TextIO, cast

BEGAN_AT = time.time()
_UNCOLLECTED_SECONDS = 2.0


def main() -> None:
    """Run the command line; exit codes: 0 done, 2 bad usage or spec, 3 quarantine above policy, 4 budget, 1 else."""
    _collect_later()
    from sightflow.tasks.memory.allocator import keep_little

    keep_little()  # before any library starts threads, each of which keeps the arena that it first took
    from sightflow.infra.loopback import bypass_proxies

    bypass_proxies()
    # Settled before Prefect, transformers and their like are imported and read it.
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if not os.environ.get("SIGHTFLOW_DEBUG"):
        # Prefect's log lines still go to its server, where the UI shows them; this screen has its own.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Torch's threads that wait for each other do not spin: on a CPU they would stall those that fetch and decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from sightflow.infra.cli.app import command_line
    from sightflow.infra.cli.screen import RedactedStream
    from sightflow.schemas.redaction import redact_logs

    redact_logs()
    sys.stderr = cast("TextIO", RedactedStream(sys.stderr))  # warnings, threads that fail, and what libraries print

    try:
        command_line(sys.argv[1] if sys.argv[1:] else None)()
    except SystemExit as end:
        if server := sys.modules.get("sightflow.infra.prefect_server"):  # loaded where one was needed
            server.leave_if_server_lost(end.code)
        raise
    finally:
        gc.freeze()  # at its end Python looks over everything once more, which takes as long


def _collect_later() -> None:
    """Collect no garbage in the first seconds: what is imported then stays, and to look it over again and again takes a
    tenth of a run with nothing to do.
    """
    gc.disable()
    timer = threading.Timer(_UNCOLLECTED_SECONDS, gc.enable)
    timer.daemon = True
    timer.start()
