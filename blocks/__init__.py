"""What is configured and holds a connection or a key, as Prefect blocks: `prefect block register -m blocks`."""

from blocks.catalog import Catalog
from blocks.florence2 import Florence2
from blocks.gemini import Gemini
from blocks.gpt_4o import GPT4o
from blocks.object_store import ObjectStore
from blocks.qwen2_vl import Qwen2VL
from blocks.qwen_vl_max import QwenVLMax

__all__ = ["Catalog", "Florence2", "GPT4o", "Gemini", "ObjectStore", "Qwen2VL", "QwenVLMax"]
