"""Several prompts about one picture or film: what stands before their words is read by the language model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_OF_THE_MEDIA = ("pixel_values", "pixel_values_images", "pixel_values_videos", "image_sizes")


@dataclass(frozen=True)
class SplitPrompts:
    """The prompts of a batch, cut where their media end.

    `inputs`: what the processor makes of one prompt about each medium, padded on the left. `ends`: the token ids after
    the medium in those prompts. `media_indices`: for each prompt, which medium it is about. `suffixes`:
    each prompt's own ids after its medium.
    """

    inputs: Any
    ends: list[list[int]]
    media_indices: list[int]
    suffixes: list[list[int]]


def split_prompts(
    inputs: Any, firsts: Sequence[int], media_indices: list[int], tokens: Sequence[list[int]], media: set[int]
) -> SplitPrompts | None:
    """Cut prompts where their media end, or None if they do not all begin alike up to there.

    `inputs`: see SplitPrompts; `firsts`: the places of its prompts among `tokens`, the ids of every prompt in which
    one id of `media` stands for the whole picture or film.
    """
    before, suffixes = [], []
    for row in tokens:
        media_positions = [k for k, token in enumerate(row) if token in media]
        if not media_positions:
            return None
        before.append(row[: media_positions[-1]])
        suffixes.append(row[media_positions[-1] + 1 :])
    ends = [suffixes[k] for k in firsts]
    alike = all(before[k] == before[firsts[index]] for k, index in enumerate(media_indices))
    whole = all(
        row[-len(end) :] == end and not media.intersection(end)
        for row, end in zip(inputs["input_ids"].tolist(), ends, strict=True)
    )
    return SplitPrompts(inputs, ends, media_indices, suffixes) if alike and whole and all(suffixes) else None


def read_prefixes(model: Any, split: SplitPrompts) -> dict[str, Any]:
    """Run what stands before the words of each prompt through the language model, each medium once.

    Return the arguments with which `model.generate` goes on from there, for all prompts: ids and mask of shape
    (prompts, prefix + words), positions of shape (..., prompts, prefix + words), and the cache of the prefixes. Between
    a short prefix and its words, and before it, stands padding that the mask leaves out.
    """
    import torch
    from transformers import DynamicCache

    ids, mask = split.inputs["input_ids"], split.inputs["attention_mask"]
    positions = _positions(model, split.inputs)
    lengths = torch.tensor([len(end) for end in split.ends], device=ids.device)
    width = ids.shape[1] - int(lengths.min())
    # Each row moves to the right by the words that it loses there.
    source = torch.arange(width, device=ids.device) - width + (ids.shape[1] - lengths)[:, None]
    mask = mask.gather(1, source.clamp(min=0)) * (source >= 0)
    source = source.clamp(min=0)
    ids = ids.gather(1, source)
    begin = positions.gather(-1, (positions.shape[-1] - lengths)[:, None].expand(*positions.shape[:-1], 1))
    positions = positions.gather(-1, source.expand(*positions.shape[:-1], width))
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    about = {name: value for name, value in split.inputs.items() if name in _OF_THE_MEDIA or name.endswith("grid_thw")}
    model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **about
    )
    media_indices = torch.tensor(split.media_indices, device=ids.device)
    cache.batch_select_indices(media_indices)
    longest = max(map(len, split.suffixes))
    padded = [[0] * (longest - len(suffix)) + suffix for suffix in split.suffixes]
    padding = torch.tensor([longest - len(suffix) for suffix in split.suffixes], device=ids.device)[:, None]
    steps = torch.arange(longest, device=ids.device) - padding
    begin = begin[..., media_indices, :]
    return {
        "input_ids": torch.cat([ids[media_indices], torch.tensor(padded, device=ids.device)], dim=1),
        "attention_mask": torch.cat([mask[media_indices], (steps >= 0).to(mask.dtype)], dim=1),
        "position_ids": torch.cat([positions[..., media_indices, :], begin + steps.clamp(min=0)], dim=-1),
        "past_key_values": cache,
    }


def windowed(model: Any) -> bool:
    """Whether some layers look back over so many tokens only, among which padding in between would count."""
    from transformers import DynamicCache

    return any(DynamicCache(config=model.config.get_text_config(decoder=True)).is_sliding)


def _positions(model: Any, inputs: Any) -> Any:
    """Position ids of shape (prompts, length); of a model with positions in time, height and width, (4, prompts,
    length), of which the first are those of plain text, as its own `generate` has them.
    """
    import torch

    mask = inputs["attention_mask"]
    plain = (mask.cumsum(-1) - 1).clamp(min=0)
    if not hasattr(model.base_model, "get_rope_index"):
        return plain
    given = {name: value for name, value in inputs.items() if not name.startswith("pixel_values")}
    return torch.cat([plain[None], model.base_model.get_rope_index(**given)[0]])
