"""Where a run starts from: another model's weights, and the words that belong to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.checkpoints.native import model_node


def started_from(
    model: Mapping[str, Any], folder: str | Path, *, allow: str | Sequence[str] = ()
) -> dict[str, Any]:
    """The plain node ``model`` with the tokenizer of the model in ``folder``, if it has none itself.

    The id of image slots comes with the tokenizer: published vocabularies keep their rows. ``allow``
    are the packages whose classes the folder may name.
    """
    node, llm = dict(model), dict(model["llm"])
    theirs = model_node(folder, allow=allow)
    if llm.get("tokenizer") is None and "path" not in llm and theirs["llm"].get("tokenizer"):
        llm["tokenizer"] = _literal(theirs["llm"]["tokenizer"])
        if node.get("image_token_id") is None:
            node["image_token_id"] = theirs.get("image_token_id")
    return {**node, "llm": llm}


def _literal(value: Any) -> Any:
    """``value`` for a configuration that Hydra builds: an interpolation in a text is that text."""
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value
