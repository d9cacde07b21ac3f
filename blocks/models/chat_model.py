"""What the local systems share that follow instructions in words: batches, limits, reading the reply."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from sightflow.blocks.models.engines.transformers.prefix_cache import (
    SplitPrompts,
    read_prefixes,
    split_prompts,
    windowed,
)
from sightflow.blocks.models.local_model import GenerationRequest, LocalVisionModel
from sightflow.blocks.models.vision_model import Generated
from sightflow.schemas.capability import MediaKind
from sightflow.schemas.media import DecodedVideo, Media
from sightflow.schemas.vision import Usage


class InstructionTunedModel(LocalVisionModel):
    """A language model that sees, behind transformers' processor and its chat template.

    A batch for a decoder is padded on the left, so that every reply begins where its prompt ends and a batch
    says what single calls say. Decoding is the arg max and nothing else: what a checkpoint recommends for
    sampling (a repetition penalty would count the padding too) is left aside.
    """

    prompt_conditioned_vision: ClassVar[bool] = False
    """Whether what is seen of a picture depends on the prompt, so that its encoding cannot be shared."""

    share_prefix: bool = Field(default=True, description="Read a picture or film once for all prompts about it.")

    def on_loaded(self) -> None:
        from transformers import GenerationConfig

        tokenizer, given = self._processor.tokenizer, self._model.generation_config
        if not self.is_encoder_decoder:
            tokenizer.padding_side = "left"
        plain = GenerationConfig(
            bos_token_id=given.bos_token_id,
            eos_token_id=tokenizer.eos_token_id if given.eos_token_id is None else given.eos_token_id,
            pad_token_id=tokenizer.pad_token_id if given.pad_token_id is None else given.pad_token_id,
            decoder_start_token_id=given.decoder_start_token_id,
            do_sample=False,
            num_beams=1,
        )
        parts: list[Any] = [self._model, getattr(self._model, "language_model", None)]  # InstructBLIP asks the second
        for part in parts:
            if hasattr(part, "generation_config"):
                part.generation_config = plain

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt, so that the decoder writes the reply and nothing before it."""
        return bool(self._model.config.get_text_config().is_encoder_decoder)

    def texts(self, units: Sequence[GenerationRequest]) -> list[str]:
        """The words of each unit's prompt as the model was trained to read them, a placeholder for the media."""
        chats = []
        for unit in units:
            content = [{"type": unit.request.media.kind.value}, {"type": "text", "text": unit.prompt.text}]
            chats.append([{"role": "user", "content": content}])
        return [str(self._processor.apply_chat_template(chat, add_generation_prompt=True)) for chat in chats]

    @abstractmethod
    def media_inputs(self, units: Sequence[GenerationRequest]) -> dict[str, Any]:
        """The processor's arguments for the media of a batch, in the order of the units."""

    def inputs(self, units: Sequence[GenerationRequest]) -> Any:
        """What the processor makes of a batch: padded token ids, and pixels."""
        texts, begin = self._wording(units)
        return self._processor(
            text=texts, padding=True, return_tensors="pt", add_special_tokens=begin, **self.media_inputs(units)
        )

    def _wording(self, units: Sequence[GenerationRequest]) -> tuple[list[str], bool]:
        """The words of each prompt, and whether the tokenizer is to write the first token before them.

        Raises ValueError if a prompt holds what stands for the media.
        """
        for unit in units:
            for token in self._placeholders():
                if token in unit.prompt.text:
                    raise ValueError(f"the prompt holds {token!r}, which stands for the media; word it differently")
        texts = self.texts(units)
        begin = self._processor.tokenizer.bos_token
        # Some templates write the first token themselves; it must not stand there twice.
        return texts, not (begin and texts[0].startswith(begin))

    # --- for an engine that has the weights elsewhere -------------------------------------------

    def load_processor_alone(self, path: Path) -> None:
        """Load what words the prompts and knows the pixels, and no weights."""
        self._processor = self.load_processor(path)

    def prompt_tokens(self, unit: GenerationRequest) -> list[int]:
        """The words as tokens, in which one placeholder stands for the media, however many tokens they will be."""
        (text,), begin = self._wording([unit])
        return list(self._processor.tokenizer(text, add_special_tokens=begin)["input_ids"])

    def processor_settings(self, media: Media | None) -> dict[str, Any]:
        """What the processor does otherwise than its files say, as keywords for another of its kind: about these
        media, or about any.
        """
        return {}

    # --- in this process ------------------------------------------------------------------------

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts about one medium share its reading by the language model; asked of the loaded model.

        Not where the prompt guides what is seen, where an encoder reads both together, or where layers look back over
        a window: there each prompt is read from its beginning.
        """
        apart = self.prompt_conditioned_vision or self.is_encoder_decoder
        return self.share_prefix and not apart and not windowed(self._model)

    def preprocess(self, units: Sequence[GenerationRequest]) -> Any:
        """The prompts cut where their media end, where that pays, else the inputs as they are."""
        split = self._split(units) if self.shares_prefix else None
        return self.inputs(units) if split is None else split

    def generate(self, units: Sequence[GenerationRequest], ready: Any = None) -> list[Generated]:
        ready = self.preprocess(units) if ready is None else ready
        if isinstance(ready, SplitPrompts):
            inputs = read_prefixes(self._model, replace(ready, inputs=self._placed(ready.inputs)))
        else:
            inputs = self._placed(ready)
            if not self.prompt_conditioned_vision:
                self._encode_media_once(inputs, units)
        before = 0 if self.is_encoder_decoder else inputs["input_ids"].shape[1]
        tokens = self._model.generate(
            **inputs,
            max_new_tokens=max(unit.prompt.max_new_tokens for unit in units),
            prefix_allowed_tokens_fn=self.choice_constraint(units, prompt_length=before),
        )
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        replies = tokens[:, before or 1 :].tolist()  # a decoder apart begins with its start token
        return [self._read(*each) for each in zip(units, replies, lengths, strict=True)]

    def _split(self, units: Sequence[GenerationRequest]) -> SplitPrompts | None:
        """The prompts cut where their media end; None if no two are about one medium, or they cannot be cut so."""
        media = [id(unit.request.media) for unit in units]
        distinct = list(dict.fromkeys(media))
        if len(distinct) == len(units):
            return None
        firsts = [media.index(each) for each in distinct]
        (texts, begin), tokenizer = self._wording(units), self._processor.tokenizer
        tokens = tokenizer(texts, add_special_tokens=begin)["input_ids"]
        ids = set(tokenizer.convert_tokens_to_ids(self._placeholders()))
        inputs = self.inputs([units[k] for k in firsts])
        return split_prompts(inputs, firsts, [distinct.index(each) for each in media], tokens, ids)

    def _placed(self, inputs: Any) -> Any:
        """Inputs on the model's device, pixels in its precision."""
        inputs = inputs.to(self._model.device)
        for name in ("pixel_values", "pixel_values_images", "pixel_values_videos"):
            if name in inputs:
                inputs[name] = inputs[name].to(self._model.dtype)
        return inputs

    def _encode_media_once(self, inputs: Any, units: Sequence[GenerationRequest]) -> None:
        """Let the vision tower see each picture and film of a batch once, however many prompts are about it."""
        seen: dict[str, Any] = {}
        for kind in self.media_kinds:
            media = [id(unit.request.media) for unit in units if unit.request.media.kind is kind]
            places = [list(dict.fromkeys(media)).index(each) for each in media]
            count = len(set(places))
            if count < len(places):
                once = _taken_once(inputs, kind, [places.index(k) for k in range(count)])
                encode = getattr(self._model.base_model, f"get_{kind.value}_features")
                seen[kind.value] = _repeated(encode(**once, return_dict=True), count, places)
        if seen:
            inputs["mm_encoder_outputs"] = seen

    def _read(self, unit: GenerationRequest, reply: list[int], asked: int) -> Generated:
        """A unit's reply, cut where it ends or at its own limit, whatever its neighbours in the batch were allowed."""
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        reply = reply[: unit.prompt.max_new_tokens]
        said = next((k for k, token in enumerate(reply) if token in ends), len(reply))
        plain = unit.request.enrichment.capability.gives_text
        text = self.tokenizer.decode(reply[:said], skip_special_tokens=plain)
        if unit.prompt.choices:
            # By its tokens, since not every tokenizer can write every word.
            spelled = dict(
                zip(map(tuple, self.tokenize_choices(unit.prompt.choices)), unit.prompt.choices, strict=True)
            )
            text = spelled.get(tuple(reply[: said + 1]), text)
        return Generated(text, Usage(asked, min(said + 1, len(reply))), truncated=said == len(reply))

    def _placeholders(self) -> list[str]:
        names = ("image_token", "video_token")
        return [str(token) for name in names if (token := getattr(self._processor, name, None))]


def _taken_once(inputs: Any, kind: MediaKind, first: list[int]) -> dict[str, Any]:
    """Take the pixels of a kind of media out of a batch's inputs: those of the units in `first`, for the encoder."""
    import torch

    names = ("pixel_values", "pixel_values_images") if kind is MediaKind.IMAGE else ("pixel_values_videos",)
    pixels = inputs.pop(next(name for name in names if name in inputs))
    grid = f"{kind.value}_grid_thw"
    if grid in inputs:  # patches of all media in one row; the grid is still needed for their positions
        parts = pixels.split(inputs[grid].prod(dim=1).tolist())
        return {names[0]: torch.cat([parts[k] for k in first]), grid: inputs[grid][first]}
    taken = {names[0]: pixels[first]}
    return taken | ({"image_sizes": inputs["image_sizes"][first]} if "image_sizes" in inputs else {})


def _repeated(encoded: Any, count: int, places: list[int]) -> Any:
    """An encoder's output about `count` media as it would be about the media at `places` among them."""

    def again(features: Any) -> Any:
        if isinstance(features, tuple | list):
            return [features[k] for k in places]
        return features.unflatten(0, (count, -1))[places].flatten(0, 1)  # a film's frames stand one after the other

    encoded.pooler_output = again(encoded.pooler_output)
    if getattr(encoded, "deepstack_features", None) is not None:
        encoded.deepstack_features = [again(level) for level in encoded.deepstack_features]
    encoded.last_hidden_state = None
    encoded.hidden_states = None
    return encoded


def frames_at_times(video: DecodedVideo) -> dict[str, Any]:
    """A video's frames with the times at which they were taken, as transformers' metadata.

    Frames are numbered in milliseconds, "at 1000 frames a second", which is exact also where the frame
    rate varies; the length is such that frames over length is the mean rate of sampling.
    """
    places = [round(second * 1000) for second in video.seconds]
    count = len(places)
    spacing = (places[-1] - places[0]) / (count - 1) if count > 1 else 1000.0 / (video.frame_rate or 24.0)
    return {"frames_indices": places, "fps": 1000.0, "total_num_frames": max(round(count * spacing), 1)}
