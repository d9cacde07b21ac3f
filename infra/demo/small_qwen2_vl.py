"""The shape of the demo's second model: a Qwen2-VL of three million parameters that says what moves where."""

from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from sightflow.infra.demo.shapes_vocabulary import PUNCTUATION, words

PATCH: Final = 8
MERGE: Final = 2
CELL: Final = PATCH * MERGE  # one token of a frame pair covers so many pixels a side
FRAMES: Final = 8
MOST_PIXELS: Final = 64 * 64
WIDTH: Final = 192
_WORD_START: Final = "▁"
_SPECIAL: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<unk>",
)  # fmt: skip
_SAID_OF_VIDEOS: Final = (
    "system user assistant you are a helpful describe this video image in one sentence answer briefly moves stays "
    "right left up down does do which way detail paragraph the and what"
)
# The template of the released Qwen2-VL checkpoints, without tools.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'video' or 'video' in part %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a word-level, lower-casing tokenizer over everything said of drawn films."""
    said = [*dict.fromkeys([*words(), *_SAID_OF_VIDEOS.split()])]
    vocabulary = [*_SPECIAL, *PUNCTUATION, *(_WORD_START + word for word in said)]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), behavior="removed"),
            pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[.,?:]"), behavior="isolated"),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_WORD_START, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> Qwen2VLProcessor:
    """Return the native processor with a budget of 64x64 pixels a frame, whatever the aspect."""
    looks: dict[str, Any] = {
        "size": {"shortest_edge": CELL * CELL * 4, "longest_edge": MOST_PIXELS},
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**looks),
        video_processor=Qwen2VLVideoProcessor(**looks, do_sample_frames=False, cap_pixels_per_frame=False),
        tokenizer=build_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLForConditionalGeneration:
    """Return the model with random weights from torch's current seed."""
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        vision_config={
            "depth": 3,
            "embed_dim": 128,
            "hidden_size": WIDTH,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5]},
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2VLForConditionalGeneration(config)
    generation = model.generation_config
    generation.bos_token_id = token("<|endoftext|>")
    generation.pad_token_id = token("<|endoftext|>")
    generation.eos_token_id = token("<|im_end|>")
    generation.max_new_tokens = 64
    generation.do_sample = False
    return model


def chat(processor: Qwen2VLProcessor, question: str) -> str:
    """The prompt for a question about one video, up to where the answer begins."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    )
