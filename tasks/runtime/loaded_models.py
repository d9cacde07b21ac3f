"""The models of a process: each is loaded once, and held by a few calls at once."""

from __future__ import annotations

import atexit
import gc
import json
import logging
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sightflow.blocks.models.outside_systems import blamed_on
from sightflow.blocks.models.registry import open_model
from sightflow.blocks.models.vision_model import VisionModel
from sightflow.schemas.failure import ModelError


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. `slots`: held while it runs, as many calls at once as it takes. `revision`: which weights
    these are, the pinned revision or a digest of the folder.
    """

    model: VisionModel
    slots: AbstractContextManager[Any]
    revision: str


_logger = logging.getLogger(__name__)

_LOADED: dict[tuple[str, str, str], LoadedModel] = {}
_LOADING = threading.Lock()
_INTERPRETER_SECONDS = 0.001
"""How long a thread may keep Python's lock that another waits for. A model gives it up at every operation of torch and
needs it back at once; threads that fetch would keep it for 5 ms each time."""


def load_model(name: str, settings: dict[str, Any] | None, may_name_code: bool = False) -> LoadedModel:
    """The model, loaded once a process; weights that changed on disk since are loaded anew.

    Raises ModelError if the model cannot be used at all.
    """
    model = open_model(name, settings, may_name_code)
    with blamed_on(name, type(model), ModelError):
        digest = model.weights_digest()
    key = (name, json.dumps(settings or {}, sort_keys=True, default=str), digest)
    with _LOADING:
        if key not in _LOADED:
            began = time.perf_counter()
            with blamed_on(name, type(model), ModelError):
                model.prepare()
            _logger.info("%s (%s) is ready after %.1f s", name, model.ref.id, time.perf_counter() - began)
            sys.setswitchinterval(min(sys.getswitchinterval(), _INTERPRETER_SECONDS))
            slots = threading.Semaphore(model.runs_at_once) if model.runs_at_once else nullcontext()
            _LOADED[key] = LoadedModel(model, slots, digest.rpartition("@")[2])
            freeze_gc()
        return _LOADED[key]


def freeze_gc() -> None:
    """Let Python's collector pass over all that there is now: what has been loaded stays.

    Each full collection would go through all the libraries and models: 0.2 s in which no thread runs.
    """
    # At the end all of it is collected: some libraries would tell what is left on the screen.
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)
    gc.unfreeze()  # so that what was passed over at the last model and has been left since is collected once
    gc.collect()
    gc.freeze()
