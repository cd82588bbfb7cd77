"""``hdvl convert``: output files, messages and errors."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.importers import load_published
from hdvl.config import compose, resolve
from hdvl.convert import run
from tests.xverse_v_reference import Sizes, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("published") / "m", Sizes(layers=1))


def convert(*words: str) -> str:
    return run(resolve(compose(*words, config_name="convert")))


def test_a_folder_is_written_and_described(source: Path, tmp_path: Path) -> None:
    said = convert(f"path={source}", f"to={tmp_path / 'native'}", "max_shard=40000")
    assert said.startswith(f"xverse_v -> {tmp_path / 'native'}\n")
    assert "tensors, 0.000 GB in" in said and "there is no tokenizer beside the weights" in said
    one, other = load_folder(tmp_path / "native").state_dict(), load_published(source).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.slow
def test_parts_and_a_type(source: Path, tmp_path: Path) -> None:
    parts = f"{{vision: {source / 'clip'}, llm: {source / 'chat'}, adapter: {source}}}"
    convert("from=xverse_v", f"path={parts}", f"to={tmp_path / 'half'}", "dtype=bfloat16")
    found = {value.dtype for value in load_folder(tmp_path / "half").parameters()}
    assert found == {torch.bfloat16}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "path and to must be given: hdvl convert path=DIR to=DIR"),
        (("path=nowhere", "to=x"), "published model must exist, nowhere does not"),
        (("path=.", "to=x", "from=flamingo"), "from must be one of xverse_v, .*, got 'flamingo'"),
        (("path=.", "to=x", "dtype=int8"), "dtype must be one of float32, .*, got 'int8'"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(*words)


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_1(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hdvl.convert", "path=docs", "to=x"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("hdvl convert: folder 'docs' has no published layout that hdvl")
    assert done.stderr.count("\n") == 1
