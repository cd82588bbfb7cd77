"""LLaVA-1.5 and LLaVA-OneVision folders, read by hdvl and exported again: the same model and processor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from hdvl.checkpoints.exporters import export
from hdvl.checkpoints.exporters.exporting import target_of
from hdvl.checkpoints.importers import convert, load_published
from tests import llava_reference as reference
from tests.llava_reference import talk

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llava", {}),
    (
        "llava",
        {
            **{"images": {"do_pad": True, "resample": 2}, "projector_hidden_act": "relu"},
            **{"multimodal_projector_bias": False},
        },
    ),
    ("llava_onevision", {}),
]


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_there_and_back(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model, processor = reference.KINDS_OF_MODEL[kind](tmp_path / "theirs", **changes)
    convert(tmp_path / "theirs", tmp_path / "ours")
    found = export(tmp_path / "ours", tmp_path / "back")
    assert found.architecture == type(model).__name__
    several = [note for note in found.notes if "vLLM would cut each into tiles" in note]
    assert bool(several) == (kind == "llava_onevision")
    again, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(report.values()), report
    own = AutoProcessor.from_pretrained(tmp_path / "back")
    for messages in (talk(), talk((90, 50)), talk((31, 200), (3, 50))):
        wanted, got = (reference.inputs(item, messages) for item in (processor, own))
        assert torch.equal(wanted["input_ids"], got["input_ids"])
        if "pixel_values" in wanted:
            assert torch.equal(wanted["pixel_values"], got["pixel_values"])
        with torch.no_grad():
            torch.testing.assert_close(
                again.eval()(**got).logits, model(**wanted).logits, atol=1e-5, rtol=0
            )


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        (
            "llava",
            {"tiler": {"fit": "pad"}},
            r"tiler.fit=pad \(only squash, crop and pad_image\)",
        ),
        ("llava", {"tiler": {"fit": "pad_image"}}, r"tiler.padding=\(0, 0, 0\) \(only \("),
        ("llava", {"tiler": {"grid": [2, 2]}}, r"tiler.grid=\(2, 2\) \(only \(1, 1\)\)"),
        (
            "llava_onevision",
            {"tiler": {"several_fit": "squash"}},
            "tiler.several_fit and .* are",
        ),
        (
            "llava_onevision",
            {"merger": {"single_newline": "rows"}},
            "merger.single_newline=rows",
        ),
    ],
)
def test_what_transformers_does_otherwise_is_refused(
    kind: str, overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    reference.KINDS_OF_MODEL[kind](tmp_path)
    vlm = load_published(tmp_path, overrides=overrides)
    with pytest.raises(ValueError, match=message):
        target_of(vlm)
