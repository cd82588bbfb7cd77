"""Notebooks are executed from top to bottom, and kept without outputs.

They run with the shipped model and images; in a checkout that has none, with a tiny model with
random weights that is put into the cell tagged ``parameters``.
"""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image

from hdvl.checkpoints.sources import ASSETS
from tests.notebooks import ROOT, execute, parameters, printed, read, set_parameters, shown_images
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OFFLINE = [path for path in NOTEBOOKS if path.stem != "08_real_vlm_on_a_laptop"]
"""Those that need nothing but hdvl; test_laptop_notebook.py runs the other."""
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert "01_compose_and_ask" in [path.stem for path in NOTEBOOKS]


@each_notebook
def test_no_outputs_are_kept(path: Path) -> None:
    for number, cell in enumerate(read(path).cells):
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, (
                f"cell {number} of {path.name} holds outputs; clear them before committing"
            )


@each_notebook
def test_parameters_are_tagged(path: Path) -> None:
    notebook = read(path)
    (place,) = parameters(notebook)
    needed = {"05_which_tiling_pays": "TABLE", "08_real_vlm_on_a_laptop": "PARTS"}
    assert needed.get(path.stem, "CHECKPOINT") in notebook.cells[place].source


@each_notebook
def test_imports_of_notebooks_are_installed(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.startswith("from hdvl")]
            exec("\n".join(lines), {})


@pytest.mark.slow
@pytest.mark.parametrize("path", OFFLINE, ids=lambda path: path.stem)
def test_it_runs(
    path: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = read(path)
    if not (ASSETS / "small").is_dir():
        Image.radial_gradient("L").resize((140, 100)).save(tmp_path / "image.png")
        source = f"IMAGE = {str(tmp_path / 'image.png')!r}"
        (place,) = parameters(notebook)
        if "hdvl/small" in notebook.cells[place].source:  # others bring their own
            source += f"\nCHECKPOINT = {str(tiny_folder)!r}"
        set_parameters(notebook, source)
    execute(notebook, tmp_path, monkeypatch)
    fewer = {"04_many_questions": 2, "05_which_tiling_pays": 1, "06_read_a_report": 0}
    fewer["07_choose_a_tiling"] = 2  # the others are in a widget
    # tiles, a tile, boxes; or labels and the losses
    assert shown_images(notebook) >= fewer.get(path.stem, 3)
    loud = [o.text for o in notebook.cells[1].outputs if o.get("name") == "stderr"]
    assert not loud, f"the first cell of {path.name} warns: {loud}"
    if path.stem == "07_choose_a_tiling":
        assert len(widget_outputs(notebook)) == 1, "the answers to the widgets are shown by one"
        (outputs,) = widget_outputs(notebook)
        assert "visual tokens" in outputs[0]["text"]
        assert any("image/png" in output.get("data", {}) for output in outputs)
    if path.stem == "03_fine_tune" and (ASSETS / "small").is_dir():
        before, after = (
            printed(cell)
            for cell in notebook.cells
            if cell.source.startswith(("pipe = ", "tuned = "))
        )
        assert after.count("right") >= 5 > before.count("right"), f"{before}\n{after}"


def widget_outputs(notebook: nbformat.NotebookNode) -> list[list[dict[str, Any]]]:
    """What each output widget of an executed notebook shows in the end."""
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    return [
        state["state"]["outputs"]
        for state in states.values()
        if state["model_name"] == "OutputModel"
    ]
