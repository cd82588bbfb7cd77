"""The InternVL and LLaVA-NeXT presets at full size, on meta: parameters as published."""

from functools import cache

import pytest
import torch
from omegaconf import OmegaConf

from hdvl.config import compose, to_plain
from hdvl.model import VLM
from hdvl.plan import build_on_meta, run
from hdvl.training.tuning import apply_tuning

YI_34B = 34_389_017_600
INTERN_VIT = 5_536_496_000
PROJECTOR = 143_170_560
INTERNVL = {"encoder": INTERN_VIT, "bridge": PROJECTOR, "merger": 0, "llm": YI_34B}
# The published 7,566,747,648 but for what features of the last block but one do not need: that
# block (12,596,224) and CLIP's last norm (2,048).
UNUSED = 12_596_224 + 2_048
LLAVA_NEXT = {
    "encoder": 303_507_456 - UNUSED,
    "bridge": 20_979_712,
    "merger": 4_096,
    "llm": 7_242_256_384,
}

QWEN_2_5_7B = 7_615_616_512  # with 152,064 rows, InternVL has 151,674
SIGLIP, HEAD = (
    428_225_600,
    15_238_352 + 2_304,
)  # with 729 positions; the head that pools, the last norm

built = cache(lambda name: build_on_meta(compose(f"model={name}").model))


def counts(vlm: VLM) -> dict[str, int]:
    return {
        part: sum(value.numel() for value in getattr(vlm, part).parameters()) for part in INTERNVL
    }


@pytest.mark.slow
def test_internvl_chat_v1_2() -> None:
    vlm = built("internvl_chat_v1_2")
    assert counts(vlm) == INTERNVL
    assert sum(INTERNVL.values()) == 40_068_684_160
    # The published 589 of the encoder, whose queries, keys and values are one tensor a block.
    assert len(vlm.state_dict()) == 589 + 2 * 45 + 6 + 60 * 9 + 3
    assert vlm.merger.token_count(vlm.tiler.plan(1024, 768)) == 256


@pytest.mark.slow
def test_internvl_1_5_dynamic() -> None:
    vlm = built("internvl_1_5_dynamic")
    assert counts(vlm) == INTERNVL
    assert vlm.merger.token_count(vlm.tiler.plan(1024, 768)) == 13 * 256


@pytest.mark.slow
def test_plus_has_the_parts_of_v1_2() -> None:
    names = ("internvl_chat_v1_2", "internvl_chat_v1_2_plus", "internvl_1_5_dynamic")
    first, plus, dynamic = (to_plain(compose(f"model={name}").model) for name in names)
    assert first == plus
    assert {key for key in first if first[key] != dynamic[key]} == {"tiler", "bridge"}


@pytest.mark.slow
def test_llava_next() -> None:
    vlm = built("llava_next")
    assert counts(vlm) == LLAVA_NEXT
    assert sum(LLAVA_NEXT.values()) + UNUSED == 7_566_747_648
    assert vlm.merger.token_count(vlm.tiler.plan(1000, 600)) == 576 + 28 * (48 + 1)


@pytest.mark.slow
def test_the_published_lora_of_rank_16() -> None:
    """122,880,000 parameters, as the published training log counts them."""
    vlm = built("internvl_1_5_dynamic")
    tuning = to_plain(compose("tuning=bridge_lora").tuning)
    tuning |= {"encoder": "frozen", "bridge": "frozen", "merger": "frozen", "llm": "lora"}
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuning["lora"]["common"] |= {"rank": 16, "targets": names}
    with torch.device("meta"):
        apply_tuning(vlm, tuning)
    built.cache_clear()  # adapters stay in it
    trained = [value.numel() for value in vlm.parameters() if value.requires_grad]
    assert sum(trained) == 122_880_000


@pytest.mark.slow
def test_plan_prints_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    config = compose("model=internvl_chat_v1_2", "tuning=bridge_only", config_name="plan")
    run(OmegaConf.to_container(config, resolve=False))
    said = capsys.readouterr().out
    for text in ("5,536,496,000", "143,170,560", "34,389,017,600", "40,068,684,160", "32 x 32"):
        assert text in said, text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoder", "llm", "tokens"),
    [
        ("internvl3_8b", 304_012_288, QWEN_2_5_7B - 390 * 2 * 3584, 13 * 256),
        ("internvl3_5_8b", 304_012_288, 8_190_735_360, 13 * 256),
        ("aya_vision_8b", SIGLIP - HEAD - 53 * 1152, 8_028_033_024, 13 * 169),
    ],
)
def test_internvl_3_and_aya_vision(name: str, encoder: int, llm: int, tokens: int) -> None:
    vlm = built(name)
    found = counts(vlm)
    assert (found["encoder"], found["llm"]) == (encoder, llm)
    assert vlm.merger.token_count(vlm.tiler.plan(1024, 768)) == tokens
