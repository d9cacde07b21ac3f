"""Every block type of Sightflow, imported: what Prefect loads to find one by its slug (`prefect.collections`)."""

from __future__ import annotations

from sightflow import blocks

TYPES = [getattr(blocks, name) for name in blocks.__all__]
"""The block classes."""
