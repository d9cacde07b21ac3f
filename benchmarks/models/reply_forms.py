"""What holding a reply to its form costs a token, by three libraries for constrained decoding, with Qwen's vocabulary.

    python -m benchmarks.models.reply_forms [--times 3]

A known reply is fed token by token, as greedy decoding would: the last token is accepted, the mask of those that may
follow is made, and it is laid over logits of (batch, 151,657) on the CPU. Libraries that are not installed are left
out: only llguidance is a dependency (for the others: `pip install xgrammar outlines-core`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

REGIONS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "label": {"type": "string", "enum": ["red circle", "blue square", "yellow star"]},
            "bbox_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        },
        "required": ["label", "bbox_2d"],
        "additionalProperties": False,
    },
}
RECEIPT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "shop": {"type": "string"},
        "date": {"type": "string", "format": "date"},
        "total": {"type": "number"},
        "paid": {"type": "string", "enum": ["cash", "card"]},
    },
    "required": ["shop", "date", "total", "paid"],
    "additionalProperties": False,
}
_POINT = r"\([0-9]{1,4},[0-9]{1,4}\)"
MARKED: Final = f"(<ref>[a-z ]+</ref><box>{_POINT},{_POINT}</box>)+"
REPLIES: Final[dict[str, tuple[Any, str]]] = {
    "JSON, boxes": (REGIONS, json.dumps([{"label": "red circle", "bbox_2d": [12, 40, 310, 522]}] * 4)),
    "JSON, receipt": (
        RECEIPT,
        json.dumps({"shop": "Corner shop on the hill, 12", "date": "2026-03-01", "total": 12.5, "paid": "card"}),
    ),
    "regular expression, boxes": (MARKED, "<ref>red circle</ref><box>(12,40),(310,522)</box>" * 4),
}
"""By name: a JSON schema or a regular expression, and a reply of that form."""

Mask = Callable[[Sequence[Any], Any], None]


class Llguidance:
    """https://github.com/guidance-ai/llguidance"""

    def __init__(self, tokenizer: Any) -> None:
        import llguidance.hf

        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, slices=[])

    def compiled(self, form: Any) -> Any:
        from llguidance import LLMatcher

        of_json = isinstance(form, dict)
        return LLMatcher.grammar_from_json_schema(form) if of_json else LLMatcher.grammar_from_regex(form)

    def matcher(self, compiled: Any) -> Any:
        from llguidance import LLMatcher

        return LLMatcher(self._tokenizer, compiled)

    def accept(self, matcher: Any, token: int) -> None:
        assert matcher.consume_token(token), matcher.get_error()

    def mask(self, matchers: Sequence[Any], logits: Any) -> None:
        import torch
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        bits = allocate_token_bitmask(len(matchers), logits.shape[1])
        for row, matcher in enumerate(matchers):
            fill_next_token_bitmask(matcher, bits, row)
        allowed = unpacked(bits, logits.shape[1])
        logits.masked_fill_(~torch.from_numpy(allowed), -torch.inf)


class Xgrammar:
    """https://github.com/mlc-ai/xgrammar"""

    def __init__(self, tokenizer: Any) -> None:
        xgrammar = importlib.import_module("xgrammar")
        self._library = xgrammar
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
        self._compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)

    def compiled(self, form: Any) -> Any:
        of_json = isinstance(form, dict)
        return self._compiler.compile_json_schema(json.dumps(form)) if of_json else self._compiler.compile_regex(form)

    def matcher(self, compiled: Any) -> Any:
        return self._library.GrammarMatcher(compiled)

    def accept(self, matcher: Any, token: int) -> None:
        assert matcher.accept_token(token)

    def mask(self, matchers: Sequence[Any], logits: Any) -> None:
        bits = self._library.allocate_token_bitmask(len(matchers), logits.shape[1])
        for row, matcher in enumerate(matchers):
            matcher.fill_next_token_bitmask(bits, row)
        self._library.apply_token_bitmask_inplace(logits, bits)


class OutlinesCore:
    """https://github.com/dottxt-ai/outlines-core: every state over the vocabulary, in advance."""

    def __init__(self, tokenizer: Any) -> None:
        outlines = importlib.import_module("outlines_core")
        self._library = outlines
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        spelled = {character: byte for byte, character in _byte_characters().items()}
        ids: dict[bytes, list[int]] = {}
        for token, number in backend["model"]["vocab"].items():
            ids.setdefault(bytes(spelled[character] for character in token), []).append(number)
        self._vocabulary = outlines.Vocabulary(tokenizer.eos_token_id, ids)

    def compiled(self, form: Any) -> Any:
        if isinstance(form, dict):
            schemas = importlib.import_module("outlines_core.json_schema")
            form = schemas.build_regex_from_schema(json.dumps(form))
        return self._library.Index(form, self._vocabulary)

    def matcher(self, compiled: Any) -> Any:
        return self._library.Guide(compiled)

    def accept(self, matcher: Any, token: int) -> None:
        matcher.advance(token)

    def mask(self, matchers: Sequence[Any], logits: Any) -> None:
        import torch

        kernels = importlib.import_module("outlines_core.kernels.torch")
        bits = kernels.allocate_token_bitmask(logits.shape[1])
        for row, matcher in enumerate(matchers):
            kernels.fill_next_token_bitmask(matcher, bits)
            allowed = unpacked(bits.numpy(), logits.shape[1])
            logits[row : row + 1].masked_fill_(~torch.from_numpy(allowed), -torch.inf)


def unpacked(bits: Any, width: int) -> Any:
    """Masks of 32-bit words, lowest bit first, as booleans of shape (batch, width)."""
    import numpy as np

    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=width).astype(bool)


def _byte_characters() -> dict[int, str]:
    """How byte-level vocabularies spell each byte (GPT-2's table)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return dict(bytes_to_unicode())


LIBRARIES: Final[dict[str, type[Any]]] = {
    "llguidance": Llguidance,
    "xgrammar": Xgrammar,
    "outlines_core": OutlinesCore,
}


def qwen_tokenizer() -> Any:
    """Qwen's 151,643 byte-pair tokens, from the file that its vendor's SDK carries, with an end of the turn."""
    import dashscope
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks = Path(dashscope.__file__).parent / "resources" / "qwen.tiktoken"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TikTokenConverter(vocab_file=str(ranks)).converted())
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    return tokenizer


def seconds_a_token(library: Any, compiled: Any, tokens: Sequence[int], batch: int, width: int) -> float:
    """Seconds that a token of a batch takes beside the model, over a whole reply."""
    import torch

    matchers = [library.matcher(compiled) for _ in range(batch)]
    logits = torch.zeros(batch, width)
    begun = time.perf_counter()
    for token in tokens:
        library.mask(matchers, logits)
        assert (logits[:, token] == 0).all(), "a token of a right reply is refused"
        for matcher in matchers:
            library.accept(matcher, token)
        logits.zero_()
    spent = time.perf_counter() - begun
    idle = time.perf_counter()
    for token in tokens:
        assert (logits[:, token] == 0).all()
        logits.zero_()
    return (spent - (time.perf_counter() - idle)) / len(tokens)


def main() -> None:
    """Print a line a library, a form and a batch."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    torch.set_num_threads(1)
    tokenizer = qwen_tokenizer()
    print(f"{'library':14} {'form':26} {'compile, ms':>12} {'batch 1, ms/token':>18} {'batch 8, ms/token':>18}")
    for name, make in LIBRARIES.items():
        try:
            begun = time.perf_counter()
            library = make(tokenizer)
        except ImportError:
            print(f"{name:14} is not installed")
            continue
        print(f"{name:14} {'the vocabulary':26} {1000 * (time.perf_counter() - begun):12.0f}")
        for form, (rule, reply) in REPLIES.items():
            tokens = tokenizer(reply, add_special_tokens=False)["input_ids"]
            begun = time.perf_counter()
            compiled = library.compiled(rule)
            library.matcher(compiled)
            compiling = time.perf_counter() - begun
            try:
                best = [
                    min(seconds_a_token(library, compiled, tokens, batch, len(tokenizer)) for _ in range(times))
                    for batch in (1, 8)
                ]
            except AssertionError as error:
                print(f"{name:14} {form:26} {1000 * compiling:12.1f} {error}")
                continue
            print(f"{name:14} {form:26} {1000 * compiling:12.1f} {1000 * best[0]:18.3f} {1000 * best[1]:18.3f}")


if __name__ == "__main__":
    main()
