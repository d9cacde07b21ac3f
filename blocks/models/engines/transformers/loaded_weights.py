"""The weights of one model in memory, and copies of them for several batches at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

from sightflow.blocks.models.contract import GenerationRequest
from sightflow.blocks.models.engines.transformers.choice_constraint import AllowedTokens, within_choices
from sightflow.blocks.models.engines.transformers.positions import reply_limits


class TransformersWeights:
    """A torch module with its processor: `LoadedWeights` on transformers.

    `preprocessing`: held while the processor is used; the tokenizer of the thread that is on the device is a copy, for
    a fast tokenizer cannot be used by two threads.
    """

    def __init__(self, model: Any, processor: Any, preprocessing: threading.Lock) -> None:
        self.model = model
        self.processor = processor
        self._preprocessing = preprocessing
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            with self._preprocessing:
                self._tokenizer = copy.deepcopy(self.processor.tokenizer)
        return self._tokenizer

    def replica(self) -> TransformersWeights:
        """For another thread: modules and a tokenizer of its own, over the same parameters and buffers.

        A module keeps state between the steps of a generation (Qwen2-VL the offset of its positions), which two threads
        cannot share.
        """
        shared = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        return TransformersWeights(copy.deepcopy(self.model, shared), self.processor, self._preprocessing)

    def tokenize_choices(self, choices: Sequence[str]) -> list[list[int]]:
        tokenizer = self.tokenizer
        return [[*tokenizer(c, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for c in choices]

    def reply_limits(self, batch: Sequence[GenerationRequest], prompt_lengths: Sequence[int]) -> list[int]:
        return reply_limits(batch, prompt_lengths, self.model.config)

    def choice_constraint(self, batch: Sequence[GenerationRequest], prompt_length: int) -> AllowedTokens | None:
        if not any(each.prompt.choices for each in batch):
            return None
        import torch

        tokenized = [self.tokenize_choices(each.prompt.choices) for each in batch]
        # By the width of the model's output, which is often more than the tokenizer has tokens.
        vocabulary = torch.arange(self.model.config.get_text_config().vocab_size, device=self.model.device)
        return within_choices(tokenized, prompt_length or 1, self.tokenizer.eos_token_id, vocabulary)
