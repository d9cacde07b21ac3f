"""`sightflow` with the stand-in in place of Florence-2, for tests that need a process to kill."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess


def forked(*command: str, **environment: str) -> BaseProcess:
    """Start `sightflow COMMAND` in a process and group of its own, which has been forked with everything imported."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["tests.stand_in_cli", "sightflow.infra.cli.run", "sightflow.flows.enrich", "tests.stand_in_model"]
    )
    process = forks.Process(target=_run, args=(command, {**os.environ, **environment}))
    process.start()
    return process


def dask_setup(worker: object = None) -> None:
    """Let the stand-in be the only system of this process; Dask calls it in a worker that preloads this module."""
    from sightflow.blocks.models.registry import SYSTEMS

    SYSTEMS.clear()
    SYSTEMS["florence-2"] = "tests.stand_in_model:StandIn"


def _run(command: tuple[str, ...], environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    sys.argv[1:] = command
    _main()


def _main() -> None:
    from sightflow.infra.cli import main

    dask_setup()
    main()


if __name__ == "__main__":
    _main()
