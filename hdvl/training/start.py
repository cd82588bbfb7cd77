"""Where a run starts from: another model's weights, and the words that belong to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.checkpoints import read_config
from hdvl.checkpoints.selfcontained import located


def started_from(model: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """The plain node ``model`` with the tokenizer of the model in ``folder``, if it has none itself.

    The id of picture slots comes with the tokenizer: published vocabularies keep their rows.
    """
    node, llm = dict(model), dict(model["llm"])
    theirs = located(read_config(folder)["model"], Path(folder))
    if llm.get("tokenizer") is None and "path" not in llm and theirs["llm"]["tokenizer"]:
        llm["tokenizer"] = theirs["llm"]["tokenizer"]
        if node.get("image_token_id") is None:
            node["image_token_id"] = theirs.get("image_token_id")
    return {**node, "llm": llm}
