"""A run that starts from a model folder uses its tokenizer and image slots."""

from pathlib import Path
from typing import Any

import pytest

from hdvl.checkpoints import load_folder, save_folder
from hdvl.config import build, from_plain
from hdvl.training.start import started_from
from tests.tiny_model import NODE, tiny_folder, tiny_node, tiny_vlm

__all__ = ["tiny_folder"]


def wordless(vlm: Any) -> dict[str, Any]:
    """A preset's node: the numbers of ``vlm``, and no tokenizer."""
    config = NODE["llm"]["config"] | {"vocab_size": vlm.llm.rows}
    return tiny_node(llm={"config": config, "tokenizer": None})


@pytest.mark.slow
def test_a_preset_without_a_tokenizer_takes_the_folder_s(tiny_folder: Path) -> None:
    theirs = load_folder(tiny_folder)
    node = started_from(wordless(theirs), tiny_folder)
    vlm = build(from_plain(node))
    assert vlm.llm.tokenizer.get_vocab() == theirs.llm.tokenizer.get_vocab()
    assert vlm.image_token_id == theirs.image_token_id
    vlm.load_state_dict(theirs.state_dict())


def test_the_number_of_image_slots_comes_along(tmp_path: Path) -> None:
    node = tiny_node() | {"image_token_id": 320}  # the first id without a row
    node["template"] = {"_target_": "hdvl.templates.Plain", "image_token": "<image>"}
    folder = save_folder(tiny_vlm(node), tmp_path / "slots", {"model": node})
    own = wordless(load_folder(folder)) | {"template": node["template"]}
    started = started_from(own, folder)
    assert started["image_token_id"] == 320
    build(from_plain(started)).load_state_dict(load_folder(folder).state_dict())


def test_a_tokenizer_of_its_own_is_kept(tiny_folder: Path) -> None:
    assert started_from(NODE, tiny_folder) == NODE
