"""The LFM2-VL preset at full size, on meta: tensors and tokens as published."""

import pytest

from hdvl.checkpoints.importers.mapping import targets_of
from hdvl.config import compose
from hdvl.plan import build_on_meta


@pytest.mark.slow
def test_lfm2_vl() -> None:
    vlm = build_on_meta(compose("model=lfm2_vl").model)
    assert len(targets_of(vlm)) == 589  # the published number of tensors
    own = {part: getattr(vlm, part) for part in ("encoder", "bridge", "merger", "llm")}
    sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in own.items()}
    assert sizes == {
        "encoder": 412_649_712,
        "bridge": 13_635_584,
        "merger": 0,
        "llm": 1_170_340_608,
    }
    large, small = vlm.tiler.plan(1600, 900), vlm.tiler.plan(600, 400)
    assert vlm.merger.layout(small) == ("<|image_start|>", 19 * 12, "<|image_end|>")
    layout = vlm.merger.layout(large)
    assert layout[:2] == ("<|image_start|><|img_row_1_col_1|>", 256)
    assert layout[-4:] == (256, "<|img_thumbnail|>", 21 * 12, "<|image_end|>")
