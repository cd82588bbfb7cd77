"""The notebook of a real VLM on a laptop, with stand-ins for the fetched parts and with the parts."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from score_laptop import read_rows

import hdvl
from hdvl.config import build, compose
from tests.laptop_parts import COLOURS, write_parts
from tests.notebooks import ROOT, execute, printed, read, set_parameters, shown_images

pytest.importorskip("gguf")
NOTEBOOK = ROOT / "notebooks" / "08_real_vlm_on_a_laptop.ipynb"
FETCHED = Path(os.environ.get("HDVL_LAPTOP_PARTS", ROOT / "laptop"))
SHARES = re.compile(r"kind of food +(\d+)% of (\d+)\nwith another photograph shown (\d+)%")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("laptop") / "laptop")


def shares(notebook: nbformat.NotebookNode) -> list[list[int]]:
    """Percentage named, number of photographs, and percentage with others shown; of each scored model."""
    texts = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    return [[int(text) for text in found] for found in SHARES.findall("".join(texts))]


def test_stand_ins_have_the_layout_of_the_experiment(parts: Path) -> None:
    config = compose("experiment=laptop", f"parts={parts}")
    encoder, llm = build(config.encoder), build(config.llm)
    assert (encoder.tile_size, encoder.grid, encoder.width) == (256, (8, 8), 320)
    assert llm.width == 32
    held_out = read_rows(parts)[1]
    for name, _ in held_out:
        with Image.open(parts / "pictures" / name) as picture:
            assert picture.width >= 160
    assert len(held_out) == 2 * len(COLOURS)


@pytest.mark.slow
def test_it_runs_with_stand_ins(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = read(NOTEBOOK)
    (tmp_path / "laptop").symlink_to(parts)
    changes = ["encoder.tile_size=128", "trainer.max_epochs=1", "optimizer.common.warmup_steps=1"]
    set_parameters(notebook, f"CHANGES = {changes!r}")
    execute(notebook, tmp_path, monkeypatch)
    assert [count for _, count, _ in shares(notebook)] == [6, 6]
    assert shown_images(notebook) == 5  # photographs three times, two plots of losses
    loud = [o.text for o in notebook.cells[1].outputs if o.get("name") == "stderr"]
    assert not loud
    model = hdvl.load(tmp_path / "runs" / "laptop_lora").model
    assert model.encoder.grid == (4, 4)


@pytest.mark.slow
@pytest.mark.skipif(
    not FETCHED.is_dir(),
    reason="needs the folder of tools/fetch_laptop_parts.py: laptop, or that of HDVL_LAPTOP_PARTS",
)
def test_it_names_most_of_the_held_out_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takes about ten CPU minutes."""
    notebook = read(NOTEBOOK)
    set_parameters(notebook, f"from pathlib import Path\nPARTS = Path({str(FETCHED.absolute())!r})")
    execute(notebook, tmp_path, monkeypatch, timeout=3600)
    for named, _, control in shares(notebook):
        assert named >= 65 and control <= 10
