"""Notebooks are executed from top to bottom, and kept without outputs.

They run with the shipped model and images; in a checkout that has none, with a tiny model with
random weights that is put into the cell tagged ``parameters``.
"""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from hdvl.checkpoints.sources import ASSETS
from tests.tiny_model import tiny_folder

__all__ = ["tiny_folder"]
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


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
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    needed = "TABLE" if path.stem == "05_which_tiling_pays" else "CHECKPOINT"
    assert len(tagged) == 1 and needed in tagged[0].source


@each_notebook
def test_imports_of_notebooks_are_installed(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.startswith("from hdvl")]
            exec("\n".join(lines), {})


@pytest.mark.slow
@each_notebook
def test_it_runs(
    path: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = read(path)
    if not (ASSETS / "small").is_dir():
        Image.radial_gradient("L").resize((140, 100)).save(tmp_path / "image.png")
        place = next(
            number
            for number, cell in enumerate(notebook.cells)
            if "parameters" in cell.metadata.get("tags", [])
        )
        source = f"IMAGE = {str(tmp_path / 'image.png')!r}"
        if "hdvl/small" in notebook.cells[place].source:  # others bring their own
            source += f"\nCHECKPOINT = {str(tiny_folder)!r}"
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    images = sum("image/png" in data or "data:image" in data.get("text/html", "") for data in shown)
    fewer = {"04_many_questions": 2, "05_which_tiling_pays": 1, "06_read_a_report": 0}
    fewer["07_choose_a_tiling"] = 2  # the others are in a widget
    assert images >= fewer.get(path.stem, 3)  # tiles, a tile, boxes; or labels and the losses
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


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell wrote to standard output."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def widget_outputs(notebook: nbformat.NotebookNode) -> list[list[dict[str, Any]]]:
    """What each output widget of an executed notebook shows in the end."""
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    return [
        state["state"]["outputs"]
        for state in states.values()
        if state["model_name"] == "OutputModel"
    ]
