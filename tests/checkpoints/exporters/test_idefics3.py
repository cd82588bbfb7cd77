"""Export of Idefics3 and SmolVLM: a folder that was imported, saved and exported equals the original."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from hdvl.bridges import PixelShuffleMLP
from hdvl.checkpoints.exporters import export
from hdvl.checkpoints.exporters import idefics3 as exporter
from hdvl.checkpoints.exporters.exporting import target_of
from hdvl.checkpoints.importers import convert, load_published
from tests import idefics3_reference as reference
from tests.checkpoints.importers.test_idefics3 import talk

CASES = {
    "idefics3": ("Idefics3", {}),
    "smolvlm, tied, its own numbers": (
        "SmolVLM",
        {
            "tie_word_embeddings": True,
            "images": {"resample": 3, "size": {"longest_edge": 130}, "image_mean": [0.1, 0.2, 0.3]},
        },
    ),
    "smolvlm, not split": ("SmolVLM", {"images": {"do_image_splitting": False}}),
}


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize("name", CASES)
def test_an_exported_folder_equals_the_imported_one(name: str, tmp_path: Path) -> None:
    kind, changes = CASES[name]
    model, processor = reference.published(kind.lower(), tmp_path / "first", **changes)
    convert(tmp_path / "first", tmp_path / "own")
    exported = export(tmp_path / "own", tmp_path / "out")
    assert exported.architecture == f"{kind}ForConditionalGeneration"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    read = AutoProcessor.from_pretrained(tmp_path / "out")
    assert (type(again), type(read)) == (type(model), type(processor))
    for sizes in ([], [(60, 40)], [(200, 30), (28, 28), (1, 70)]):
        theirs, wanted = (
            reference.inputs(read, talk(*sizes)),
            reference.inputs(processor, talk(*sizes)),
        )
        assert theirs.keys() == wanted.keys()
        assert all(torch.equal(theirs[key], wanted[key]) for key in wanted)
        with torch.no_grad():
            torch.testing.assert_close(again(**theirs).logits, model(**wanted).logits)
    state, first = again.state_dict(), model.state_dict()
    assert state.keys() == first.keys()
    assert all(torch.equal(state[key], first[key]) for key in first)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smolvlm")
    reference.published("smolvlm", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tiler": {"thumbnail": "first"}}, r"tiler.thumbnail=first \(only last\)"),
        ({"tiler": {"max_edge": 90}}, r"tiler.max_edge=90 \(only 4096\)"),
        ({"tiler": {"skip_blank": True}}, "tiler.skip_blank=True"),
        ({"merger": {"tags": {"row_end": "|"}}}, r"merger.tags.row_end='\|' \(only '\\n'\)"),
        ({"merger": {"tags": {"before_image": "<a>"}}}, "merger.tags.before_image='<a>'"),
    ],
)
def test_what_transformers_cannot_hold(
    overrides: dict[str, Any], message: str, smolvlm: Path
) -> None:
    vlm = load_published(smolvlm, overrides=overrides)
    with pytest.raises(ValueError, match=message):
        target_of(vlm)


def test_bridges_that_transformers_cannot_hold(smolvlm: Path) -> None:
    vlm = load_published(smolvlm)
    vlm.bridge = PixelShuffleMLP(in_width=32, out_width=48, grid=(4, 4))
    with pytest.raises(ValueError, match=r"bridge.depth=2 \(only 1\); bridge.bias=True"):
        target_of(vlm)


@pytest.mark.slow
def test_without_num2words_the_package_is_named(
    smolvlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_published(smolvlm)
    monkeypatch.setattr(exporter, "_has_num2words", lambda: False)
    with pytest.raises(ValueError, match="needs the package num2words: pip install num2words"):
        target_of(vlm)
