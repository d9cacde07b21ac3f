"""InstructBLIP, tiny, with either of its language models: Flan-T5 (encoder-decoder) or Vicuna (decoder-only)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    T5Config,
)

from tests.tiny_models.vocabularies import bert_tokenizer, llama_tokenizer, t5_tokenizer

_QUERIES = 4
_TEXT = (
    "what colour is it ? a the of in red green blue circle square star yes no and "
    "one two three image describe this sentence left right above below large small there are not"
)
WORDS = _TEXT.split()


def build(folder: Path, language_model: Literal["t5", "vicuna"] = "t5", seed: int = 3) -> Path:
    """Save the model and its processor; return the folder."""
    torch.manual_seed(seed)
    tokenizer = t5_tokenizer(WORDS) if language_model == "t5" else llama_tokenizer("<image>")
    qformer_tokenizer = bert_tokenizer(WORDS)
    processor = InstructBlipProcessor(
        image_processor=BlipImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        qformer_tokenizer=qformer_tokenizer,
        num_query_tokens=_QUERIES,
    )
    text_config: T5Config | LlamaConfig
    if language_model == "t5":
        text_config = T5Config(
            vocab_size=len(tokenizer),
            d_model=48,
            d_kv=12,
            d_ff=96,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=tokenizer.pad_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_factor=3.0,
        )
    else:
        text_config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        )
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            initializer_range=0.3,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=len(qformer_tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        ),
        text_config=text_config,
        num_query_tokens=_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    InstructBlipForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
