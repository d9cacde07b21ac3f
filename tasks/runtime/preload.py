"""What a run needs and takes long to load, loaded before the run begins."""

from __future__ import annotations

import logging
from importlib import import_module

from sightflow.blocks.extras import is_installed
from sightflow.schemas.failure import StoreError
from sightflow.schemas.spec import EnrichmentSpec
from sightflow.schemas.tables.catalog import CatalogRow
from sightflow.schemas.tables.frames import to_frame
from sightflow.schemas.tables.inventory import Inventory
from sightflow.schemas.tables.quarantine import QuarantineRow
from sightflow.schemas.tables.runs import RunRow
from sightflow.tasks.open import open_store

_logger = logging.getLogger(__name__)

_IMPORTED_LATE = (
    "deltalake",
    "fastapi.encoders",
    "prefect.flow_engine",
    "prefect.main",
    "prefect.task_engine",
    "prefect.utilities.visualization",
    "pyarrow",
)
_IF_INSTALLED = ("transformers",)


def preload(spec: EnrichmentSpec, is_planned: bool = False) -> None:
    """Import what would be imported in the midst of the run, let the schemas be compiled, open the store's client.

    The store is asked nothing. If its client cannot be opened, the run says what is wrong. `is_planned`: it is known
    which model will be asked, and loading that imports what it needs.
    """
    for name in (*_IMPORTED_LATE, *filter(is_installed, () if is_planned else _IF_INSTALLED)):
        import_module(name)
    for model in (Inventory, CatalogRow, QuarantineRow, RunRow):
        model.validate(to_frame(model, []))
    if not spec.store.block:  # a saved one is loaded by the run: Prefect may not be up yet
        try:
            open_store(spec.store).connect(spec.source)
        except StoreError as error:
            _logger.debug("the store is not opened ahead of the run: %s", error)
