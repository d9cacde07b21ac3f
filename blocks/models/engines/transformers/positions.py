"""How many tokens a model can tell apart by their place: prompt and reply have to fit into them together.

Past them a table of learned positions ends with an index error, and rotary positions are such as were never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightflow.blocks.models.contract import GenerationRequest, ReplyError
from sightflow.schemas.failure import Cause


def reply_limits(batch: Sequence[GenerationRequest], prompt_lengths: Sequence[int], config: Any) -> list[int]:
    """The most tokens that each reply of a batch may have: as its prompt says, or as its own prompt leaves positions.

    `prompt_lengths`: in tokens, with those of the media and without padding. Of an encoder-decoder prompt and reply
    have positions of their own. Raises ReplyError with cause `too_large` if a prompt by itself does not fit.
    """
    text_config = config.get_text_config()
    positions: int | None = getattr(text_config, "max_position_embeddings", None)  # T5 counts distances, without an end
    wanted = [each.prompt.max_new_tokens for each in batch]
    if positions is None:
        return wanted
    apart = bool(text_config.is_encoder_decoder)
    longest = max(prompt_lengths)
    if longest > positions - (0 if apart else 1):
        why = f"a prompt of {longest:,} tokens, its media among them; the model has {positions:,} positions"
        raise ReplyError(why, Cause.TOO_LARGE)
    room = [positions - (0 if apart else length) for length in prompt_lengths]
    return [min(each) for each in zip(wanted, room, strict=True)]
