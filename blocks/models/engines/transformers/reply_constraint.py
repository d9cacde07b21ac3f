"""Replies that cannot leave their form: a mask over the next tokens, as transformers' `generate(logits_processor=)`
takes it.

Choices are followed by their tokens, since not every tokenizer can write every word; everything else by llguidance
(https://github.com/guidance-ai/llguidance), which tells of a grammar and the tokens so far what may come next.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from sightflow.blocks.extras import require
from sightflow.blocks.models.reply_forms import Grammar, JsonSchema, Regex, ReplyForm

_logger = logging.getLogger(__name__)
_BITS = 32
_ANY_SPELLING = '%llguidance {"no_forcing": true}\n'
"""What must come next may be spelled in any tokens, so that a reply of the right form is never changed."""
_WHITE_SPACE = "\\n?[ ]{0,24}"
"""Within JSON, as pretty printers set it; without a bound a reply might never come to its point."""


class FollowedForm(Protocol):
    """Where a reply stands within its form."""

    def accept(self, token: int) -> bool:
        """Go on by a token; False if the form ends here, or the token is none that it allows."""

    def fill(self, bits: Any) -> None:
        """Write which tokens may come next into 32-bit words, of shape (width / 32,), lowest bit first."""


class FollowedChoices:
    """One of some texts. `tokenized`: the tokens of each, with the end after them."""

    def __init__(self, tokenized: Sequence[list[int]]) -> None:
        self._open = list(tokenized)
        self._length = 0

    def accept(self, token: int) -> bool:
        self._open = [c for c in self._open if c[self._length] == token and len(c) > self._length + 1]
        self._length += 1
        return bool(self._open)

    def fill(self, bits: Any) -> None:
        bits[:] = 0
        words = bits.view("uint32")
        for token in {choice[self._length] for choice in self._open}:
            words[token // _BITS] |= 1 << (token % _BITS)


class _FollowedGrammar:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def accept(self, token: int) -> bool:
        # The end token stops it, and so does one that it does not allow: where nothing is left that may come.
        return bool(self._matcher.consume_token(token)) and not self._matcher.is_error()

    def fill(self, bits: Any) -> None:
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, bits[None])


class ReplyConstraint:
    """Holds the replies of a batch to their forms, token by token. Not for two batches.

    `forms`: one a prompt; None leaves a reply as it comes. `start`: how many tokens stand before the reply. `ends`: the
    tokens that end one.
    """

    def __init__(self, forms: Sequence[FollowedForm | None], start: int, ends: set[int]) -> None:
        self._forms = list(forms)
        self._read = start
        self._ends = ends

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores of the next tokens, of shape (batch, width), with those out of the question at -inf."""
        import numpy as np
        import torch

        for row, tokens in enumerate(input_ids[:, self._read :].tolist()):
            for token in tokens:
                form = self._forms[row]
                if form is not None and (token in self._ends or not form.accept(token)):
                    self._forms[row] = None
        self._read = input_ids.shape[1]
        if not any(self._forms):
            return scores
        width = scores.shape[1]
        bits = np.full((len(self._forms), -(-width // _BITS)), -1, dtype=np.int32)
        for row, form in enumerate(self._forms):
            if form is not None:
                form.fill(bits[row])
        allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=width).astype(bool)
        for row in np.flatnonzero(~allowed.any(axis=1)).tolist():
            self._forms[row], allowed[row] = None, True  # no token of the vocabulary can go on: left to the reader
        return scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)


class ReplyGrammars:
    """Forms in terms of one tokenizer, compiled once each.

    `width`: of the model's output, which may be more than the tokenizer has tokens. `ends`: the tokens that end a
    reply. For any thread.
    """

    def __init__(self, tokenizer: Any, width: int, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._ends = list(ends)
        self._compiling = threading.Lock()
        self._vocabulary: Any = None
        self._compiled: dict[str, Any] = {}

    def follow(self, form: ReplyForm) -> FollowedForm | None:
        """The form at the beginning of a reply; None, with a warning once, if this tokenizer cannot spell it."""
        with self._compiling:
            key = repr(form)
            if key not in self._compiled:
                self._compiled[key] = self._compile(form)
            compiled = self._compiled[key]
            return None if compiled is None else _FollowedGrammar(compiled.deep_copy())

    def _compile(self, form: ReplyForm) -> Any:
        require("llguidance", "local", "holding replies to their form")
        from llguidance import LLMatcher

        try:
            if self._vocabulary is None:
                self._vocabulary = self._read_vocabulary()
            matcher = LLMatcher(self._vocabulary, self._grammar(form), log_level=0)
            problem = matcher.get_error()
        except ValueError as error:
            problem = str(error)
        if problem:
            _logger.warning("replies are not held to their form, which the tokenizer cannot spell: %s", problem[:500])
            return None
        return matcher

    def _grammar(self, form: ReplyForm) -> str:
        """A form as llguidance takes it. A space before it is none of it, and a word of many vocabularies begins so."""
        from llguidance import LLMatcher

        match form:
            case JsonSchema(schema):
                given = dict(schema) | {"x-guidance": {"whitespace_pattern": _WHITE_SPACE}}
                rules = f"start: /[ \\n]?/ value\nvalue: %json {json.dumps(given)}\n"
            case Regex(pattern):
                made = json.loads(LLMatcher.grammar_from_regex(f" ?(?:{pattern})"))
                rules = made["grammars"][0]["lark_grammar"]
            case Grammar(rules, tokens):
                rules += "".join(f"\n{name}: <{self._ranges(pattern)}>" for name, pattern in tokens)
            case _:
                raise ValueError(f"{type(form).__name__} is no form that is followed by a grammar")
        return str(LLMatcher.grammar_from_lark(_ANY_SPELLING + rules))

    def _ranges(self, pattern: str) -> str:
        """The ids of the tokens that are spelled so, as `[1,5-9]`. Raises ValueError if there are none."""
        spelled = re.compile(pattern)
        ids = sorted(number for token, number in self._tokenizer.get_vocab().items() if spelled.fullmatch(token))
        if not ids:
            raise ValueError(f"no token is spelled as {pattern}")
        ranges: list[list[int]] = []
        for number in ids:
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        return f"[{','.join(f'{first}-{last}' if last > first else str(first) for first, last in ranges)}]"

    def _read_vocabulary(self) -> Any:
        backend = copy.copy(getattr(self._tokenizer, "backend_tokenizer", None))
        if backend is None:  # a tokenizer that the library tokenizers does not have
            return self._by_spellings()
        backend.no_padding()
        backend.no_truncation()
        try:
            return _vocabulary(backend.to_str(), self._width, tuple(self._ends))
        except ValueError:  # a decoder that it does not know, of a list of words say
            return self._by_spellings()

    def _by_spellings(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        spelled = TokenizerWrapper(_SpelledTokens(self._tokenizer, self._width, self._ends[0]))
        return LLTokenizer(spelled, n_vocab=self._width, eos_token=self._ends)


@lru_cache(maxsize=4)
def _vocabulary(serialized: str, width: int, ends: tuple[int, ...]) -> Any:
    """A tokenizer of the library tokenizers as llguidance's; made once a process, since that takes seconds."""
    from llguidance import LLTokenizer

    return LLTokenizer(serialized, n_vocab=width, eos_token=list(ends))


class _SpelledTokens:
    """A tokenizer by the spelling of each token, in which `▁` is a space, as `TokenizerWrapper` takes it."""

    def __init__(self, tokenizer: Any, width: int, end: int) -> None:
        spellings = dict(enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))))
        texts = [spellings.get(number, f"<|unused {number}|>").replace("▁", " ") for number in range(width)]
        self.tokens = [text.encode() for text in texts]
        self.eos_token_id, self.bos_token_id = end, None
        self.special_token_ids = [*tokenizer.added_tokens_decoder, *range(len(tokenizer), width)]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
