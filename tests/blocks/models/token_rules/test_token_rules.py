"""Images and videos are counted as each vendor says: its published examples, and what follows from its rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightflow.blocks.models.hosted_profiles import text_tokens
from sightflow.blocks.models.systems.gemini import Gemini
from sightflow.blocks.models.systems.gpt_4o import GPT4o
from sightflow.blocks.models.systems.qwen_vl_max import QwenVLMax
from sightflow.blocks.models.token_rules import gemini, openai, qwen
from sightflow.schemas.capability import Capability, MediaKind
from sightflow.schemas.enrichment import Enrichment

CAPTION = Enrichment(capability=Capability.VIDEO_CAPTIONING)
TRACK = Enrichment(capability=Capability.OBJECT_TRACKING, labels=("cat",))


@pytest.mark.parametrize(
    "size, detail, tokens",
    [
        ((1024, 1024), "high", 765),  # published
        ((2048, 4096), "high", 1105),  # published
        ((4096, 8192), "low", 85),  # published
        ((1920, 1080), "high", 1105),
    ],
)
def test_tiles(size, detail, tokens) -> None:
    assert openai.GPT_4O.tokens(size, detail) == tokens


@pytest.mark.parametrize(
    "size, patches",
    [((1024, 1024), 1024), ((1800, 2400), 1452)],  # both published
)
def test_patches_are_whole_after_a_second_shrink(size, patches) -> None:
    assert openai.Patches(1.0, openai.Budget(1536)).tokens(size, "high") == patches
    assert openai.Patches(1.0, openai.Budget(1536, 2048)).tokens(size, "high") == patches


@pytest.mark.parametrize(
    "size, mini, high, original",
    [
        ((640, 640), 648, 480, 480),
        ((1024, 1024), 1659, 1229, 1229),
        ((1920, 1080), 2443, 2448, 2448),
        ((1800, 2400), 2353, 2942, 5130),
        ((4032, 3024), 2353, 2942, 14364),
    ],
)
def test_patches_times_what_an_id_multiplies_them_by(size, mini, high, original) -> None:
    assert GPT4o(id="gpt-4.1-mini").image_tokens(size) == mini
    assert GPT4o(id="gpt-5-mini").image_tokens(size) == GPT4o(id="gpt-5.4-mini-2026-03-17").image_tokens(size) == mini
    assert GPT4o(id="gpt-5.6-luna").image_tokens(size) == GPT4o(id="gpt-6-luna").image_tokens(size) == high
    assert GPT4o(id="gpt-5.6-sol", detail="original").image_tokens(size) == original


def test_original_detail_has_bounds_of_its_own_and_counts_only_where_an_id_knows_it() -> None:
    assert GPT4o(id="gpt-5.4", detail="original").image_tokens((4032, 3024)) <= 10_000 * 1.2
    assert max(GPT4o(id="gpt-5.5", detail="original").sent_size((9000, 1000))) == 6000
    # 5.6 and later refuse more than 30,000 patches: no image is sent that would be.
    assert GPT4o(id="gpt-6-sol", detail="original").image_tokens((9000, 9000)) <= 30_000 * 1.2
    plain = GPT4o(id="gpt-4o", detail="original")
    assert plain.asked_detail == "high" and plain.image_tokens((1024, 1024)) == 765


@pytest.mark.parametrize("model_id, tokens", [("gpt-4o-mini", 25501), ("gpt-5", 630), ("o3", 675), ("gpt-4.1", 765)])
def test_other_families_of_tiles(model_id, tokens) -> None:
    assert GPT4o(id=model_id).image_tokens((1024, 1024)) == tokens


@pytest.mark.parametrize("model_id, each", [("gpt-5-nano", 2.46), ("gpt-5.4-nano", 2.46), ("gpt-5.2", 1.2)])
def test_other_families_of_patches(model_id, each) -> None:
    assert GPT4o(id=model_id).image_tokens((320, 320)) == pytest.approx(100 * each)
    assert openai.O4_MINI.tokens((320, 320), "high") == 172


RULES = (openai.GPT_4O, openai.GPT_5, openai.MINI, openai.NANO, openai.GPT_5_2, openai.GPT_5_4, openai.GPT_5_6)
side = st.integers(1, 12_000)


@given(st.sampled_from(RULES), st.tuples(side, side), st.sampled_from(["low", "high", "original"]))
def test_an_image_that_is_sent_at_the_size_it_is_seen_at_costs_what_the_original_would(rule, size, detail) -> None:
    sent = rule.sent_size(size, detail)
    assert rule.tokens(sent, detail) == rule.tokens(size, detail)
    assert rule.sent_size(sent, detail) == sent and all(a <= b for a, b in zip(sent, size, strict=True))


@pytest.mark.parametrize(
    "size, tokens",
    [((384, 384), 258), ((1024, 1024), 1032), ((1920, 1080), 1548), ((4032, 3024), 6192), ((960, 540), 1548)],
)
def test_gemini_2_5_counts_tiles_by_the_short_side(size, tokens) -> None:
    assert gemini.GEMINI_2_5.image_tokens(size) == tokens
    assert Gemini(id="gemini-2.5-flash").image_tokens(size) == tokens


@pytest.mark.parametrize(
    "resolution, image, frame", [(None, 1120, 70), ("low", 280, 70), ("medium", 560, 70), ("high", 1120, 280)]
)
def test_gemini_3_and_4_count_by_resolution(resolution, image, frame) -> None:
    for model_id in ("gemini-3.8-flash", "gemini-4-argon"):
        model = Gemini(id=model_id, media_resolution=resolution)
        assert model.image_tokens((640, 480)) == model.image_tokens((4032, 3024)) == image
        assert model.file_usage(60, 60.0).input_tokens == 60 * frame + 60 * 32
        assert model.file_usage(60, 60.0).audio_input_tokens == 60 * 32


def test_a_video_of_gemini_2_5_has_263_tokens_a_second_beside_its_sound() -> None:
    assert gemini.video_tokens(gemini.GEMINI_2_5, 60) == 60 * 263


@pytest.mark.parametrize(
    "size, cells_of_32, cells_of_28",
    [((640, 640), 402, 531), ((1920, 1080), 2042, 1224), ((4032, 3024), 2496, 1232)],
)
def test_qwen_counts_cells_and_two_around_them(size, cells_of_32, cells_of_28) -> None:
    assert QwenVLMax(id="qwen3.7-plus").image_tokens(size) == cells_of_32
    assert QwenVLMax(id="qwen-vl-max").image_tokens(size) == cells_of_28
    assert qwen.QWEN_3.image_tokens((4096, 4096), high=True) == 16_384 + 2


def test_qwen_counts_frames_of_a_list_in_pairs_each_within_the_bound_of_all() -> None:
    assert qwen.QWEN_3.video_tokens((512, 288), 8) == 4 * 16 * 9 + 2
    assert qwen.QWEN_3.video_tokens((512, 288), 7) == 4 * 16 * 9 + 2
    most = qwen.QWEN_3_VL_PLUS.video_tokens((1920, 1080), 30)  # 640 cells of a frame: 32 x 18
    assert most == 15 * 33 * 18 + 2
    many = qwen.QWEN_3.video_tokens((1920, 1080), 512)  # 65,536 cells of all frames: 256 of each
    assert many <= 256 * 256 + 2


def test_a_window_of_a_video_is_counted_as_it_is_sent() -> None:
    size = (1920, 1080)
    text = QwenVLMax().window_usage(CAPTION, (512, 288), 8, 10.0).input_tokens
    assert text == 4 * 16 * 9 + 2, "one list of frames"
    assert QwenVLMax().window_usage(TRACK, (512, 288), 8, 10.0).input_tokens > 8 * (16 * 9 + 2), "images with titles"
    assert Gemini().window_usage(CAPTION, size, 8, 10.0).input_tokens == 8 * 70 + 320, "the file itself"
    assert Gemini().window_usage(TRACK, size, 8, 10.0).input_tokens > 8 * 1120, "images with titles"
    gpt = GPT4o(id="gpt-4o")
    (frames,) = gpt.request_usages(CAPTION, MediaKind.VIDEO, size, 8, 10.0)
    assert frames.input_tokens > 8 * gpt.image_tokens((512, 288))


def test_words_are_counted_by_their_script() -> None:
    english = "Describe this picture in one sentence, in plain words. " * 20
    assert len(english) / 4.8 < text_tokens(english) < len(english) / 3.5
    assert text_tokens("请用一句话描述这张图片。" * 20) > 200
