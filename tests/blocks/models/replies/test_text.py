"""Replies that are text: the answer, nothing else, and never half of one."""

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightflow.blocks.models.contract import Prompt, ReplyError
from sightflow.blocks.models.engines.providers.openai_chat import content_text
from sightflow.blocks.models.replies.answer import answer_of, without_fence
from sightflow.blocks.models.replies.text import plain_text, read_text
from sightflow.blocks.models.reply_forms import one_of
from sightflow.schemas.capability import Capability
from sightflow.schemas.enrichment import Enrichment

CHOICES = ("indoors", "outdoors")
CAPTION = Enrichment(capability=Capability.IMAGE_CAPTIONING)
ASK = Enrichment(capability=Capability.VISUAL_QUESTION_ANSWERING, question="Which?")


@pytest.mark.parametrize(
    "reply",
    [
        "A dog.",
        "<think>A cat? No.</think>A dog.",
        "<think>A cat? No.</think>\n\nA dog.\n",
        "A cat? No.</think>A dog.",
        "first</think>second</think>A dog.",
        "<THINKING>hm</THINKING> A dog.",
        "[THINK]hm[/THINK]A dog.",
        "◁think▷hm◁/think▷A dog.",
        "<|channel>thought\nA cat? No.<channel|>A dog.<turn|>",
        "<|channel>thought\n\n<channel|>A dog.",
        "<|turn>model\nA dog.<turn|>",
        "<think></think>A dog.",
        "A dog.<think>was that right? yes</think>",
        "A dog.<|im_end|>",
        "A dog.<|im_end|>\n<|endoftext|>",
        "<|im_start|>assistant\nA dog.<|im_end|>",
        "<start_of_turn>model\nA dog.<end_of_turn>",
        "<s> A dog.</s>",
        "A dog.<sep>",
        "A dog.<pad><pad>",
        "A dog.[EOS]",
        "<｜begin▁of▁sentence｜>A dog.<｜end▁of▁sentence｜>",
        "```\nA dog.\n```",
        "```text\nA dog.\n```",
        '<think class="a">hm</think>A dog.',
        "< think >hm</ think >A dog.",
        "<seed:think>hm</seed:think>A dog.",
        "<reasoning_content>hm</reasoning_content>A dog.",
        "<think>hm</think><answer>A dog.</answer>",
        "<answer> A dog. </answer><|eot_id|>",
        "<|begin_of_box|>A dog.<|end_of_box|>",
        "ASSISTANT: A dog.</s>",
        '"A dog."',
    ],
)
def test_everything_that_is_not_the_answer_is_taken_off(reply: str) -> None:
    assert read_text(reply, CAPTION, Prompt("")).text == "A dog."


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "  \n",
        "<|im_end|>",
        "<think>A dog.",
        "<think>A dog.</think>",
        "A cat.<think>or is it?</think>A dog.",
        "A dog.<|im_end|>\n<|im_start|>user\nAnd this?",
        "A dog <sep> a cat",
        "A dog <loc_12><loc_40>",
        "A <|box_start|>(1,2),(3,4)<|box_end|> dog",
        '{"caption": "A dog."}',
        '[{"label": "dog"}]',
        '```json\n{"caption": "A dog."}\n```',
        "<think>hm</think>{}",
        "{'caption': 'A dog.'}",
        '{"caption": "A dog.',
        '[{"caption": "A dog."}, {',
        'Here it is: {"caption": "A dog."}',
        'Here it is:\n```json\n["A dog."]\n```',
        "```\nA dog.\n```\n```\nA cat.\n```",
        "<think why>A dog.",
        '<tool_call>{"name": "look"}</tool_call>',
        '[TOOL_CALLS][{"name": "look"}]',
        "<function=look>now</function>",
        "<answer>A dog.</answer><answer>A cat.</answer>",
        "<s_answer>A dog.</s_answer>",
        "[INST] Describe it. [/INST] A dog.</s>",
        "<<SYS>>Be brief.<</SYS>> A dog.",
        "A dog.<0x0A>",
        "A dog.<unused7>",
        "A dog.<end_of_image>",
        "A dog.[UNK]",
        "<CAPTION>A dog.",
        "...",
    ],
)
def test_what_is_no_description_is_malformed(reply: str) -> None:
    with pytest.raises(ReplyError):
        read_text(reply, CAPTION, Prompt(""))


def test_json_is_an_answer_where_a_question_or_a_prompt_of_the_users_may_have_asked_for_it() -> None:
    assert read_text('{"colour": "red"}', ASK, Prompt("")).text == '{"colour": "red"}'
    prompted = CAPTION.model_copy(update={"prompt": "Describe it as JSON."})
    assert read_text('{"colour": "red"}', prompted, Prompt("")).text == '{"colour": "red"}'


@pytest.mark.parametrize(
    "reply",
    [
        "indoors",
        "Indoors.",
        "INDOORS!",
        "**indoors**",
        "_Indoors_",
        "`indoors`",
        '"indoors"',
        '{"answer": "indoors"}',
        '```json\n{"answer": "indoors"}\n```',
        "(A) indoors",
        "A) Indoors",
        "A. indoors",
        "1. indoors",
        "**A.** indoors",
        "Answer: indoors",
        "**Answer:** Indoors.",
        "The answer is **indoors**.",
        "Final answer: (A) indoors",
        "<think>outdoors?</think>indoors",
        "indoors<|im_end|>",
        "<answer>Indoors</answer>",
    ],
)
def test_a_choice_is_known_however_it_is_dressed(reply: str) -> None:
    assert plain_text(reply, CHOICES).text == "indoors"


@pytest.mark.parametrize(
    "reply",
    [
        "A",
        "(B) indoors",
        "2. indoors",
        "indoors or outdoors",
        "indoors, outdoors",
        "indoors\noutdoors",
        "not indoors",
        "Indoors, because there is a roof.",
        "in doors",
        "indoor",
        '{"answer": ["indoors"]}',
        '["indoors", "outdoors"]',
        '{"answer": "indoors", "answer": "outdoors"}',
        "<answer>indoors</answer><answer>outdoors</answer>",
        "<think>indoors",
    ],
)
def test_what_names_no_choice_or_more_than_one_is_malformed(reply: str) -> None:
    with pytest.raises(ReplyError):
        plain_text(reply, CHOICES)


@pytest.mark.parametrize("reply", ["室内。", "「室内」", "答案：室内", "室内！", "答案是室内。", "Ａ．室内"])
def test_chinese_choices_are_known_with_their_punctuation(reply: str) -> None:
    assert plain_text(reply, ("室内", "室外")).text == "室内"


def test_choices_that_look_alike_are_told_apart_or_malformed() -> None:
    assert plain_text("C++", ("C", "C++", "C#")).text == "C++"
    assert plain_text("C.", ("C", "C++", "C#")).text == "C"
    assert plain_text("yes!", ("yes", "yes!")).text == "yes!"
    with pytest.raises(ReplyError):
        plain_text("Yes?", ("yes", "yes!"))
    assert plain_text("B", ("A", "B")).text == "B"


WORDS = (
    st.text(string.ascii_letters + string.digits + "äß室内 -+#", min_size=1, max_size=12).map(str.strip).filter(bool)
)


@given(st.lists(WORDS, min_size=2, max_size=5, unique_by=str.casefold), st.data())
def test_every_choice_is_read_back_as_itself(choices: list[str], data: st.DataObject) -> None:
    choice = data.draw(st.sampled_from(choices))
    assert plain_text(choice, choices).text == choice
    assert plain_text(json.dumps({"answer": choice}), choices).text == choice
    assert plain_text(f"<think>{choices[0]}</think>{choice}<|im_end|>", choices).text == choice


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<|im_end|>",
        "<s>",
        "</s>",
        "```",
        "```json\n",
        "\n",
        " ",
        "a dog",
        "{",
        "}",
        "[",
        "]",
        '"',
        ":",
    ]
)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=30).map("".join))
@example("</think>" * 3)
@example("<think>" * 3)
def test_any_reply_is_text_without_tags_or_malformed(reply: str) -> None:
    for choices in ((), CHOICES):
        try:
            text = plain_text(reply, choices, prose=True).text
        except ReplyError:
            continue
        assert text and text == text.strip()
        assert not any(tag in text for tag in ("<think>", "</think>", "<|im_end|>", "</s>"))
        assert not choices or text in choices


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("```" + " " * 300_000, "```"),
        (" " * 300_000 + "x", "x"),
        ("<think>" * 40_000, "ended within its thinking"),
        ("</think>" * 40_000, "the reply is empty"),
        ("[EOS] " * 50_000, "the reply is empty"),
    ],
    ids=["a fence", "spaces", "thinking", "the end of thinking", "ends"],
)
def test_a_long_hostile_reply_is_read_as_a_short_one_is(reply: str, read: str) -> None:
    if len(read) < 5:
        assert plain_text(reply).text == read
    else:
        with pytest.raises(ReplyError, match=read):
            plain_text(reply)


def test_only_text_is_taken_of_content_parts() -> None:
    parts = [
        {"type": "thinking", "thinking": "a cat?"},
        {"type": "reasoning", "text": "a cat?"},
        {"type": "text", "text": "A "},
        "noise",
        {"type": "text", "text": "dog."},
        {"type": "image_url", "text": "no"},
        {"type": "text"},
    ]
    assert content_text(parts) == "A dog."
    assert content_text("A dog.") == "A dog." and content_text(None) == ""


def test_one_prompt_s_choices_are_those_of_its_form() -> None:
    assert read_text("Indoors", ASK, Prompt("", reply_form=one_of(CHOICES))).text == "indoors"
    assert answer_of(" x ") == "x" and without_fence("a ``` b") == "a ``` b"
