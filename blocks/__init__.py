"""What is configured and holds a connection or a key, as Prefect blocks: `prefect block register -m blocks`."""

from blocks.catalog import Catalog
from blocks.florence2 import Florence2
from blocks.gemini import Gemini
from blocks.gpt_4o import GPT4o
from blocks.instruct_blip import InstructBlip
from blocks.llava_next import LlavaNext
from blocks.object_store import ObjectStore
from blocks.qwen2_vl import Qwen2VL
from blocks.qwen_vl_max import QwenVLMax
from blocks.video_llava import VideoLlava

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
