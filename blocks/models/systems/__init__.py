"""The systems that can be asked: a file and a line each."""

SYSTEMS: dict[str, str] = {
    "llava-next": "sightflow.blocks.models.systems.llava_next:LlavaNext",
    "florence-2": "sightflow.blocks.models.systems.florence2:Florence2",
    "video-llava": "sightflow.blocks.models.systems.video_llava:VideoLlava",
    "qwen2-vl": "sightflow.blocks.models.systems.qwen2_vl:Qwen2VL",
    "instruct-blip": "sightflow.blocks.models.systems.instruct_blip:InstructBlip",
    "gpt-4o": "sightflow.blocks.models.systems.gpt_4o:GPT4o",
    "gemini": "sightflow.blocks.models.systems.gemini:Gemini",
    "qwen-vl-max": "sightflow.blocks.models.systems.qwen_vl_max:QwenVLMax",
    "chat": "sightflow.blocks.models.systems.chat:Chat",
    "detector": "sightflow.blocks.models.systems.detector:Detector",
    "segmenter": "sightflow.blocks.models.systems.segmenter:Segmenter",
}
"""Where each class is; it is imported when it is first used."""
