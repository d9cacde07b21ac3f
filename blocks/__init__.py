"""What is configured and holds a connection or a key, as Prefect blocks: `prefect block register -m blocks`.

Every process of every run imports all of them, so each imports the library of its model where it is used.
"""

from sightflow.blocks.catalog.catalog import Catalog
from sightflow.blocks.models.systems.florence2 import Florence2
from sightflow.blocks.models.systems.gemini import Gemini
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.blocks.models.systems.instruct_blip import InstructBlip
from sightflow.blocks.models.systems.llava_next import LlavaNext
from sightflow.blocks.models.systems.qwen2_vl import Qwen2VL
from sightflow.blocks.models.systems.qwen_vl_max import QwenVLMax
from sightflow.blocks.models.systems.video_llava import VideoLlava
from sightflow.blocks.store.object_store import ObjectStore

__all__ = [
    "Catalog",
    "Florence2",
    "GPT4o",
    "Gemini",
    "InstructBlip",
    "LlavaNext",
    "ObjectStore",
    "Qwen2VL",
    "QwenVLMax",
    "VideoLlava",
]
