"""What is configured and holds a connection or a key, as Prefect blocks: `prefect block register -m blocks`."""

from blocks.catalog import Catalog
from blocks.florence2 import Florence2
from blocks.object_store import ObjectStore

__all__ = ["Catalog", "Florence2", "ObjectStore"]
