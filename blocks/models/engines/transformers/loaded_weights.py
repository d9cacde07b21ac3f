"""The weights of one model in memory, and copies of them for several batches at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

from sightflow.blocks.models.contract import GenerationRequest
from sightflow.blocks.models.engines.transformers.positions import reply_limits
from sightflow.blocks.models.engines.transformers.reply_constraint import (
    FollowedChoices,
    FollowedForm,
    ReplyConstraint,
    ReplyGrammars,
)
from sightflow.blocks.models.reply_forms import Choices, FreeText, ReplyForm


class TransformersWeights:
    """A torch module with its processor: `LoadedWeights` on transformers.

    `preprocessing`: held while the processor is used; the tokenizer of the thread that is on the device is a copy, for
    a fast tokenizer cannot be used by two threads. `enforces`: whether replies are held to their forms.
    """

    def __init__(self, model: Any, processor: Any, preprocessing: threading.Lock, enforces: bool = True) -> None:
        self.model = model
        self.processor = processor
        self._preprocessing = preprocessing
        self._enforces = enforces
        self._tokenizer: Any = None
        self._grammars: ReplyGrammars | None = None

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
        model = copy.deepcopy(self.model, shared)
        replica = TransformersWeights(model, self.processor, self._preprocessing, self._enforces)
        replica._grammars = self._reply_grammars()
        return replica

    def tokenize_choices(self, choices: Sequence[str]) -> list[list[int]]:
        tokenizer = self.tokenizer
        return [[*tokenizer(c, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for c in choices]

    def reply_limits(self, batch: Sequence[GenerationRequest], prompt_lengths: Sequence[int]) -> list[int]:
        return reply_limits(batch, prompt_lengths, self.model.config)

    def reply_processors(self, batch: Sequence[GenerationRequest], prompt_length: int) -> Any:
        if not self._enforces:
            return None
        forms = [self._followed(each.prompt.reply_form) for each in batch]
        if not any(forms):
            return None
        from transformers import LogitsProcessorList

        return LogitsProcessorList([ReplyConstraint(forms, prompt_length or 1, set(self._ends()))])

    def _followed(self, form: ReplyForm) -> FollowedForm | None:
        match form:
            case FreeText():
                return None
            case Choices(options):
                return FollowedChoices(self.tokenize_choices(options))
        return self._reply_grammars().follow(form)

    def _reply_grammars(self) -> ReplyGrammars:
        if self._grammars is None:
            # By the width of the model's output, which is often more than the tokenizer has tokens.
            width = self.model.config.get_text_config().vocab_size
            self._grammars = ReplyGrammars(copy.deepcopy(self.tokenizer), width, self._ends())
        return self._grammars

    def _ends(self) -> list[int]:
        """The tokens that end a reply."""
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return list(ends) if isinstance(ends, list) else [ends]
