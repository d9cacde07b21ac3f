"""Families of image-text-to-text models, by the name that transformers has for them: how each writes boxes, which
system serves it, and which the generic prompts of `chat` cannot serve.

How a family writes boxes is taken from what its makers publish, or it is not in the table: a wrong guess would put
every box in a wrong place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from sightflow.blocks.models.chat.template import read_template
from sightflow.blocks.models.contract import Availability
from sightflow.blocks.models.weights import model_type
from sightflow.schemas.failure import ModelError


class Family(NamedTuple):
    """`boxes`: the form in which it writes boxes, of `replies/box_forms.py`; empty where its makers name none.

    `named`: what the ids of its members have in common, as a regular expression over an id in small letters.
    `shares`: prompts about one medium are read from the medium's end on, and say what each by itself would (tried).
    """

    named: str
    boxes: str = ""
    shares: bool = False


# Sources: the model cards and papers of arXiv:2409.12191 (Qwen2-VL), 2502.13923 (Qwen2.5-VL), 2412.05271 (InternVL),
# 2507.01006 (GLM-4.xV), 2601.10611 (Molmo2); ai.google.dev/gemma/docs (Gemma 4).
FAMILIES: dict[str, Family] = {
    "qwen2_vl": Family(r"qwen2-vl|qwen2vl|qvq", "marked", True),
    "qwen2_5_vl": Family(r"qwen2[._]5-vl|qwen2_5_vl", "pixels", True),
    "qwen3_vl": Family(r"qwen3-vl(?!.*-a\d+b)", "thousandths", True),
    "qwen3_vl_moe": Family(r"qwen3-vl.*-a\d+b", "thousandths"),
    "qwen3_5": Family(r"qwen3[._]5(?!.*-a\d+b)", "thousandths"),
    "qwen3_5_moe": Family(r"qwen3[._]5.*-a\d+b", "thousandths"),
    "internvl": Family(r"internvl", "referred"),
    "glm4v": Family(r"glm-4[._]1v", "thousandths"),
    "glm4v_moe": Family(r"glm-4[._]5v", "thousandths"),
    "glm46v": Family(r"glm-4[._]6v", "thousandths"),
    "gemma4": Family(r"gemma-4", "thousandths_y_first"),
    "molmo2": Family(r"molmo2", "points"),
    "smolvlm": Family(r"smolvlm"),
    "gemma3": Family(r"gemma-3-"),
    "gemma3n": Family(r"gemma-3n"),
    "llava_onevision": Family(r"llava-onevision|llava-ov", shares=True),
    "llava_next": Family(r"llava-v1[._]6|llava-next(?!-video)"),
    "llava": Family(r"llava-1[._]5"),
    "lfm2_vl": Family(r"lfm2[._0-9]*-vl"),
    "mllama": Family(r"llama-3[._]2.*-vision"),
    "mistral3": Family(r"mistral-small-3|pixtral"),
    "video_llama_3": Family(r"videollama3"),
}

OWN_SYSTEMS = {
    "llava_next": "llava-next",
    "florence2": "florence-2",
    "video_llava": "video-llava",
    "qwen2_vl": "qwen2-vl",
    "qwen2_5_vl": "qwen2-vl",
    "qwen3_vl": "qwen2-vl",
    "instructblip": "instruct-blip",
}
"""The families that a system of the comparison table was made for, and which."""


class Unfit(NamedTuple):
    """A family that transformers maps and that is not asked as a chat. `named`: as in `Family`."""

    named: str
    why: str
    instead: str


_OCR = Unfit("", "reads documents by prompts of its own", "ask a chat model of the hub about the text, e.g. Qwen3-VL")
_ANSWERS_IN_WORDS = "take a chat model of the hub, e.g. HuggingFaceTB/SmolVLM2-2.2B-Instruct"
UNFIT: dict[str, Unfit] = {
    "florence2": Unfit(r"florence-2", "is asked by task tokens", "write `system: florence-2`"),
    "video_llava": Unfit(r"video-llava", "sees eight frames, neither more nor fewer", "write `system: video-llava`"),
    "instructblip": Unfit(
        r"instructblip(?!video)", "reads its question in a Q-Former", "write `system: instruct-blip`"
    ),
    "instructblipvideo": Unfit("", "reads its question in a Q-Former", _ANSWERS_IN_WORDS),
    "paligemma": Unfit(
        r"paligemma", "is asked by prefixes (`detect cat`) and has no chat template", "take a Gemma: Gemma 3 or 4"
    ),
    "blip": Unfit(r"/blip-", "continues a caption and follows no instruction", "write `system: instruct-blip`"),
    "blip-2": Unfit(r"blip2", "continues a text and follows no instruction", "write `system: instruct-blip`"),
    "git": Unfit(r"/git-(?:base|large)", "continues a caption and follows no instruction", _ANSWERS_IN_WORDS),
    "kosmos-2": Unfit(r"kosmos-2(?![._]5)", "is asked by markup of its own", "write `system: florence-2`"),
    "kosmos-2.5": _OCR._replace(named=r"kosmos-2[._]5"),
    "pix2struct": Unfit(r"pix2struct", "reads the question out of the picture's header", _ANSWERS_IN_WORDS),
    "udop": _OCR,
    "vision-encoder-decoder": Unfit("", "has no prompt, or one of its own", _ANSWERS_IN_WORDS),
    "fuyu": Unfit(r"fuyu", "has no chat template", _ANSWERS_IN_WORDS),
    "evolla": Unfit(r"evolla", "reads proteins, not pictures", _ANSWERS_IN_WORDS),
    "pi0": Unfit("", "answers in a robot's movements", _ANSWERS_IN_WORDS),
    "shieldgemma2": Unfit(r"shieldgemma", "answers how likely a policy is broken, not in words", "take a Gemma 3"),
    "diffusion_gemma": Unfit(r"diffusion-?gemma", "writes a block at a time, not from left to right", "take a Gemma 4"),
    "got_ocr2": _OCR._replace(named=r"got-ocr"),
    "deepseek_ocr2": _OCR._replace(named=r"deepseek-ocr"),
    "glm_ocr": _OCR._replace(named=r"glm-ocr"),
    "granite_docling": _OCR._replace(named=r"granite-docling"),
    "lighton_ocr": _OCR._replace(named=r"lightonocr"),
    "minicpm_ocr": _OCR._replace(named=r"minicpm-ocr"),
    "paddleocr_vl": _OCR._replace(named=r"paddleocr"),
    "pp_chart2table": _OCR,
    "pp_formulanet": _OCR,
    "qianfan_ocr": _OCR._replace(named=r"qianfan-ocr"),
    "unlimited_ocr": _OCR,
}


def family_of_id(model_id: str) -> str | None:
    """The family that an id names, for weights that are not on this machine; None if it names none that is known."""
    name = model_id.lower()
    found = (family for family, each in UNFIT.items() if each.named and re.search(each.named, name))
    known = (family for family, each in FAMILIES.items() if re.search(each.named, name))
    return next(found, None) or next(known, None)


def why_unfit(family: str | None, path: Path | None) -> Availability | None:
    """Why `chat` cannot ask this family, or the weights in this folder, with what to use instead; None if it can."""
    if family in UNFIT:
        unfit = UNFIT[family]
        return Availability(False, f"{family} {unfit.why}, and chat asks in a chat template", unfit.instead)
    if path is None:
        return None
    if family is None:
        return Availability(False, f"{path} holds no config.json that names a model", "check the id or the folder")
    import transformers

    if family not in _mapped():
        why = f"transformers {transformers.__version__} maps {family!r} to no image-text-to-text model"
        return Availability(False, why, "install a newer one, or serve it elsewhere and write `engine: endpoint`")
    remedy = "take the instruction-tuned weights of the family, whose folder holds a chat_template.jinja"
    try:
        template = read_template(path)
    except ModelError as error:
        return Availability(False, str(error), remedy)
    return None if template else Availability(False, f"{path} holds no chat template", remedy)


def weights_class(family: str) -> str:
    """The class in transformers that `AutoModelForImageTextToText` takes for a family."""
    return _mapped()[family]


def takes_videos(family: str | None, path: Path | None) -> bool:
    """Whether transformers has a video processor for a family, and the chat template of its weights a place for one."""
    if path is None or family is None:
        return False
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    return bool(VIDEO_PROCESSOR_MAPPING_NAMES.get(family)) and "video" in (read_template(path) or "")


def right_spec(family: str, model_id: str) -> str:
    """What to write into a spec for weights of this family."""
    if family in UNFIT and family not in OWN_SYSTEMS:
        return UNFIT[family].instead
    if system := OWN_SYSTEMS.get(family):
        return f"write `models: {{{system}: {{id: {model_id}}}}}` and `model: {system}`"
    return f"write `models: {{NAME: {{system: chat, id: {model_id}}}}}` and `model: NAME`"


def foreign_weights(system: str, model_id: str, path: Path | None) -> Availability | None:
    """Why weights are not those of a system of the comparison table, with the spec that serves them; None if they are,
    or if nobody knows: loading them will tell.
    """
    if system not in OWN_SYSTEMS.values():
        return None
    family = model_type(path) if path else family_of_id(model_id)
    known = family in FAMILIES or family in UNFIT or family in OWN_SYSTEMS
    if family is None or not known or OWN_SYSTEMS.get(family) == system:
        return None
    return Availability(False, f"{path or model_id} holds weights of {family!r}", right_spec(family, model_id))


def _mapped() -> dict[str, str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
