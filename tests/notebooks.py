"""Reads and executes notebooks."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook in the file ``path``, which must be valid."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def parameters(notebook: nbformat.NotebookNode) -> list[int]:
    """The numbers of the cells that are tagged ``parameters``."""
    return [
        number
        for number, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]


def set_parameters(notebook: nbformat.NotebookNode, source: str) -> None:
    """Put a cell with ``source`` behind the one that is tagged ``parameters``."""
    (place,) = parameters(notebook)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    timeout: int = 300,
) -> None:
    """Execute all cells in ``folder``; a cell may take ``timeout`` seconds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, resources=place).execute()


def shown_images(notebook: nbformat.NotebookNode) -> int:
    """How many outputs of an executed notebook are or hold images."""
    shown: list[dict[str, Any]] = [
        output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    return sum("image/png" in data or "data:image" in data.get("text/html", "") for data in shown)


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell wrote to standard output."""
    return "".join(
        output.text
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )
