"""``hdvl export``: writes a folder, or gives one error."""

import subprocess
import sys
from pathlib import Path

import pytest

from hdvl.config import compose, resolve
from hdvl.export import run
from tests.checkpoints.exporters.test_exporting import CASES, REFUSED, saved


def export(*overrides: str) -> str:
    return run(resolve(compose(*overrides, config_name="export")))


def test_it_says_what_it_wrote_and_what_will_be_otherwise(tmp_path: Path) -> None:
    saved(CASES["internvl"][1], tmp_path / "model")
    words = [f"checkpoint={tmp_path}/model", "overrides={tiler: {background: [0, 0, 0]}}"]
    out = export(*words, f"to={tmp_path}/native").splitlines()
    assert out[0] == f"InternVLForConditionalGeneration -> {tmp_path}/native"
    assert out[1].startswith(
        "note: transparent pixels: transformers lays the image on white, hdvl lays it on"
    )
    assert {"config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "native").iterdir()
    }


def test_weights_in_several_files(tmp_path: Path) -> None:
    saved(CASES["internvl"][1], tmp_path / "model")
    words = [f"checkpoint={tmp_path}/model", "overrides={tiler: {background: null}}"]
    export(*words, f"to={tmp_path}/one")
    export(*words, f"to={tmp_path}/several", "max_shard=20000")
    counts = [len(list((tmp_path / to).glob("*.safetensors"))) for to in ("one", "several")]
    assert counts[0] == 1 < counts[1]


def test_wrong_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint and to must be given"):
        export()
    with pytest.raises(ValueError, match="format must be one of transformers, vllm, got 'gguf'"):
        export(f"checkpoint={tmp_path}", f"to={tmp_path}/a", "format=gguf")
    with pytest.raises(
        ValueError, match="max_shard is an option of format=transformers, format=vllm"
    ):
        export(f"checkpoint={tmp_path}", f"to={tmp_path}/a", "format=vllm", "max_shard=1000")


@pytest.mark.slow
def test_a_refusal_is_one_line_and_exit_code_1(root: Path, tmp_path: Path) -> None:
    saved(REFUSED["v1 order"][0], tmp_path / "model")
    result = subprocess.run(
        [sys.executable, "-m", "hdvl.export", f"checkpoint={tmp_path}/model", f"to={tmp_path}/n"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    said = result.stderr.strip().splitlines()[-1]
    assert (
        said
        == "hdvl export: no class of transformers can represent this model: bridge.order=v1 (only v2)"
    )
