"""Which importer a folder is for."""

import json
from pathlib import Path
from typing import Any

import pytest

import hdvl
from hdvl.checkpoints.importers import IMPORTERS, detect, load_published
from hdvl.checkpoints.importers.registry import importer_of
from hdvl.config import CONF_DIR


def folder(path: Path, config: dict[str, Any] | None, *files: str) -> Path:
    path.mkdir(parents=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    for file in files:
        (path / file).parent.mkdir(exist_ok=True)
        (path / file).touch()
    return path


def test_every_importer_has_its_preset_and_a_name_of_its_own() -> None:
    assert all(name == importer.name for name, importer in IMPORTERS.items())
    for importer in IMPORTERS.values():
        assert (CONF_DIR / "model" / f"{importer.preset}.yaml").is_file(), importer.name
        assert importer.licence, importer.name


def test_names_of_folders_are_ignored(tmp_path: Path) -> None:
    assert detect(folder(tmp_path / "XVERSE-V-13B", None, "readme.txt")) is None
    assert detect(folder(tmp_path / "qwen-vl-chat", {"model_type": "bert"})) is None
    assert detect(folder(tmp_path / "anything", None, "adapter_and_lora.bin")) == "xverse_v"
    assert detect(folder(tmp_path / "parts", None, "x/adapter_and_lora.bin")) == "xverse_v"
    assert detect(tmp_path / "nowhere") is None


def test_a_folder_that_no_importer_recognises(tmp_path: Path) -> None:
    unknown = folder(tmp_path / "bert", {"model_type": "bert"})
    message = r"'.*bert' has no published layout that hdvl knows, which are: xverse_v.*set from="
    for load in (load_published, hdvl.load):
        with pytest.raises(ValueError, match=message):
            load(unknown)
    with pytest.raises(ValueError, match=r"must exist, .*nowhere does not; check the path"):
        load_published(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"must be a folder, there is no .*nowhere; check the path"
    ):
        hdvl.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"from must be one of xverse_v, .*, got 'bert'"):
        importer_of(unknown, "bert")


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_importer_refuses_the_folder_of_another(tmp_path: Path, name: str) -> None:
    other = folder(tmp_path / "bert", {"model_type": "bert", "hidden_size": 3}, "model.safetensors")
    with pytest.raises(
        ValueError, match=r"bert' must (hold one each of|be complete, they are not)"
    ):
        load_published(other, name)


def test_a_configuration_that_is_no_json(tmp_path: Path) -> None:
    broken = folder(tmp_path / "m", None)
    (broken / "config.json").write_text('{"model_type": ')
    with pytest.raises(
        ValueError, match=r"config\.json' must be JSON, it is not: .*; copy it again"
    ):
        hdvl.load(broken)
    (broken / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must be a JSON object, got list"):
        hdvl.load(broken)
