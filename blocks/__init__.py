"""What is configured and holds a connection or a key, as Prefect blocks: `prefect block register -m blocks`.

Every process of every run imports all of them, so each imports the library of its model where it is used.
"""

from sightflow.blocks.catalog import Catalog
from sightflow.blocks.florence2 import Florence2
from sightflow.blocks.gemini import Gemini
from sightflow.blocks.gpt_4o import GPT4o
from sightflow.blocks.instruct_blip import InstructBlip
from sightflow.blocks.llava_next import LlavaNext
from sightflow.blocks.object_store import ObjectStore
from sightflow.blocks.qwen2_vl import Qwen2VL
from sightflow.blocks.qwen_vl_max import QwenVLMax
from sightflow.blocks.video_llava import VideoLlava

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
