"""Batches for models that see and follow instructions, behind transformers' processor and its chat template.

A batch for a decoder is padded on the left, so that every reply begins where its prompt ends and a batch says what
single calls say. Decoding is the arg max and nothing else: what a checkpoint recommends for sampling (a repetition
penalty would count the padding too) is left aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sightflow.blocks.models.contract import Generated, GenerationRequest, LoadedWeights
from sightflow.blocks.models.engines.transformers.prefix_cache import (
    SplitPrompts,
    read_prefixes,
    split_prompts,
    windowed,
)
from sightflow.blocks.models.replies.answer import marks_thinking
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.vision import Usage


class ChatSystem(Protocol):
    """What is asked of a system that is prompted through a chat template."""

    @property
    def prompt_conditioned_vision(self) -> bool: ...
    @property
    def media_kinds(self) -> Iterable[MediaKind]: ...

    share_prefix: bool

    def templated(self, batch: Sequence[GenerationRequest]) -> tuple[list[str], bool]: ...
    def media_inputs(self, batch: Sequence[GenerationRequest]) -> dict[str, Any]: ...
    def finish_inputs(self, inputs: Any) -> None: ...
    def placeholders(self) -> list[str]: ...


class ChatGenerator:
    """Prompts one model's loaded weights through its system's chat template."""

    def __init__(self, system: ChatSystem, weights: LoadedWeights) -> None:
        self._system = system
        self.weights = weights
        self._decode_greedily()

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt, so that the decoder writes the reply and nothing before it."""
        return bool(self.weights.model.config.get_text_config().is_encoder_decoder)

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts about one medium share its reading by the language model.

        Not where what is seen depends on the prompt, where an encoder reads both together, or where layers look back
        over a window: there each prompt is read from its beginning.
        """
        system = self._system
        apart = system.prompt_conditioned_vision or self.is_encoder_decoder
        return system.share_prefix and not apart and not windowed(self.weights.model)

    def inputs(self, batch: Sequence[GenerationRequest]) -> Any:
        """What the processor makes of a batch: padded token ids of shape (batch, length), and pixels."""
        texts, add_special_tokens = self._system.templated(batch)
        media = self._system.media_inputs(batch)
        if "images" in media:  # some processors want a prompt's own images side by side
            media = media | {"images": [[image] for image in media["images"]]}
        inputs = self.weights.processor(
            text=texts,
            padding=True,
            return_tensors="pt",
            add_special_tokens=add_special_tokens,
            **media,
        )
        self._system.finish_inputs(inputs)
        return inputs

    def preprocess(self, batch: Sequence[GenerationRequest]) -> Any:
        """The prompts cut where their media end, where that pays, else the inputs as they are."""
        split = self.split(batch) if self.shares_prefix else None
        return self.inputs(batch) if split is None else split

    def generate(self, batch: Sequence[GenerationRequest], inputs: Any) -> list[Generated]:
        model = self.weights.model
        if isinstance(inputs, SplitPrompts):
            inputs = read_prefixes(model, replace(inputs, inputs=self._on_device(inputs.inputs)))
        else:
            inputs = self._on_device(inputs)
            if not self._system.prompt_conditioned_vision:
                self._encode_media_once(inputs, batch)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        limits = self.weights.reply_limits(batch, lengths)
        before = 0 if self.is_encoder_decoder else inputs["input_ids"].shape[1]
        tokens = model.generate(
            **inputs,
            max_new_tokens=max(limits),
            logits_processor=self.weights.reply_processors(batch, prompt_length=before),
        )
        replies = tokens[:, before or 1 :].tolist()  # a decoder apart begins with its start token
        return [self._generated(*each) for each in zip(batch, replies, lengths, limits, strict=True)]

    def split(self, batch: Sequence[GenerationRequest]) -> SplitPrompts | None:
        """The prompts cut where their media end; None if no two are about one medium, or they cannot be cut so."""
        media = [id(each.request.media) for each in batch]
        distinct = list(dict.fromkeys(media))
        if len(distinct) == len(batch):
            return None
        firsts = [media.index(each) for each in distinct]
        (texts, add_special_tokens), tokenizer = self._system.templated(batch), self.weights.processor.tokenizer
        tokens = tokenizer(texts, add_special_tokens=add_special_tokens)["input_ids"]
        ids = set(tokenizer.convert_tokens_to_ids(self._system.placeholders()))
        inputs = self.inputs([batch[k] for k in firsts])
        return split_prompts(inputs, firsts, [distinct.index(each) for each in media], tokens, ids)

    def _decode_greedily(self) -> None:
        from transformers import GenerationConfig

        model, tokenizer = self.weights.model, self.weights.processor.tokenizer
        recommended = model.generation_config
        if not self.is_encoder_decoder:
            tokenizer.padding_side = "left"
        greedy = GenerationConfig(
            bos_token_id=recommended.bos_token_id,
            eos_token_id=tokenizer.eos_token_id if recommended.eos_token_id is None else recommended.eos_token_id,
            pad_token_id=tokenizer.pad_token_id if recommended.pad_token_id is None else recommended.pad_token_id,
            decoder_start_token_id=recommended.decoder_start_token_id,
            do_sample=False,
            num_beams=1,
        )
        parts: list[Any] = [model, getattr(model, "language_model", None)]  # InstructBLIP asks the second
        for part in parts:
            if hasattr(part, "generation_config"):
                part.generation_config = greedy

    def _on_device(self, inputs: Any) -> Any:
        """Inputs on the model's device, pixels in its precision."""
        inputs = inputs.to(self.weights.model.device)
        for name in inputs:
            if name.startswith("pixel_values"):
                inputs[name] = inputs[name].to(self.weights.model.dtype)
        return inputs

    def _encode_media_once(self, inputs: Any, batch: Sequence[GenerationRequest]) -> None:
        """Let the vision tower see each image and video of a batch once, however many prompts are about it."""
        encoded: dict[str, Any] = {}
        for kind in self._system.media_kinds:
            media = [id(each.request.media) for each in batch if each.request.media.kind is kind]
            indices = [list(dict.fromkeys(media)).index(each) for each in media]
            count = len(set(indices))
            if count < len(indices):
                distinct = _distinct_pixels(inputs, kind, [indices.index(k) for k in range(count)])
                encode = getattr(self.weights.model.base_model, f"get_{kind.value}_features")
                encoded[kind.value] = _repeat_features(encode(**distinct, return_dict=True), count, indices)
        if encoded:
            inputs["mm_encoder_outputs"] = encoded

    def _generated(self, each: GenerationRequest, reply: list[int], prompt_tokens: int, limit: int) -> Generated:
        """One reply, cut where it ends or at its own limit, whatever its neighbours in the batch were allowed."""
        ends = self.weights.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        reply = reply[:limit]
        length = next((k for k, token in enumerate(reply) if token in ends), len(reply))
        written = self.weights.tokenizer.decode(reply[:length], skip_special_tokens=False)
        # Without its marks thinking would be part of the answer.
        plain = not (each.request.enrichment.capability.gives_places or marks_thinking(written))
        text = self.weights.tokenizer.decode(reply[:length], skip_special_tokens=True) if plain else written
        if choices := each.prompt.choices:
            # By its tokens, since not every tokenizer can write every word.
            tokenized = dict(zip(map(tuple, self.weights.tokenize_choices(choices)), choices, strict=True))
            text = tokenized.get(tuple(reply[: length + 1]), text)
        usage = Usage(prompt_tokens, min(length + 1, len(reply)))
        room = limit if limit < each.prompt.max_new_tokens else None
        return Generated(text, usage, truncated=length == len(reply), room=room)


def _distinct_pixels(inputs: Any, kind: MediaKind, first: list[int]) -> dict[str, Any]:
    """Take the pixels of a kind of media out of a batch's inputs: those at `first`, for the encoder."""
    import torch

    names = ("pixel_values", "pixel_values_images") if kind is MediaKind.IMAGE else ("pixel_values_videos",)
    pixels = inputs.pop(next(name for name in names if name in inputs))
    grid = f"{kind.value}_grid_thw"
    if grid in inputs:  # patches of all media in one row; the grid is still needed for their positions
        parts = pixels.split(inputs[grid].prod(dim=1).tolist())
        return {names[0]: torch.cat([parts[k] for k in first]), grid: inputs[grid][first]}
    distinct = {names[0]: pixels[first]}
    return distinct | ({"image_sizes": inputs["image_sizes"][first]} if "image_sizes" in inputs else {})


def _repeat_features(encoded: Any, count: int, indices: list[int]) -> Any:
    """An encoder's output about `count` media as it would be about the media at `indices` among them."""

    def repeat(features: Any) -> Any:
        if isinstance(features, tuple | list):
            return [features[k] for k in indices]
        return features.unflatten(0, (count, -1))[indices].flatten(0, 1)  # a video's frames stand one after the other

    encoded.pooler_output = repeat(encoded.pooler_output)
    if getattr(encoded, "deepstack_features", None) is not None:
        encoded.deepstack_features = [repeat(level) for level in encoded.deepstack_features]
    encoded.last_hidden_state = None
    encoded.hidden_states = None
    return encoded
