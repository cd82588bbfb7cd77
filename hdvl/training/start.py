"""The weights that a run starts from, and the tokenizer that belongs to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hdvl.checkpoints.shards import check_keys, tie_groups
from hdvl.checkpoints.sources import read_model, read_model_shapes, read_node
from hdvl.overrides import WEIGHTED_GROUPS


def started_from(
    model: Mapping[str, Any], folder: str | Path, *, allow: str | Sequence[str] = ()
) -> dict[str, Any]:
    """Return the plain node ``model`` with the tokenizer of the model in ``folder``, if it has none itself.

    The id of image slots is taken together with the tokenizer, because the rows of a published
    vocabulary are fixed.

    Args:
        model: the plain node of the model to train.
        folder: the folder of the model that training starts from.
        allow: packages besides hdvl whose classes the folder may name.
    """
    node, llm = dict(model), dict(model["llm"])
    folder_node = read_node(Path(folder), allow=allow)
    own = "path" in llm or "folder" in llm
    if llm.get("tokenizer") is None and not own and folder_node["llm"].get("tokenizer"):
        llm["tokenizer"] = literal(folder_node["llm"]["tokenizer"])
        if node.get("image_token_id") is None:
            node["image_token_id"] = folder_node.get("image_token_id")
    return {**node, "llm": llm}


def check_start(vlm: nn.Module, folder: Path, new_parts: Sequence[str], *, source: object) -> None:
    """Check that the stored weights fit ``vlm``, which may be on ``meta``, except for its ``new_parts``.

    Raises:
        ValueError: weights are missing, surplus or of another shape (all are listed), or a name in
            ``new_parts`` is not a part with weights.
    """
    for part in new_parts:
        if part not in WEIGHTED_GROUPS:
            raise ValueError(f"new_parts must be of {', '.join(WEIGHTED_GROUPS)}, got {part}")
    own = {name: tuple(value.shape) for name, value in vlm.state_dict().items()}
    stored = {
        n: shape for n, shape in read_model_shapes(folder).items() if not _is_new(n, new_parts)
    }
    names = tie_groups(vlm)
    kept = {name: own[name] for name in names if _is_new(name, new_parts)}
    check_keys(vlm, stored | kept, source=source)


def load_start(
    vlm: nn.Module, folder: Path, new_parts: Sequence[str], *, allow: str | Sequence[str] = ()
) -> None:
    """Load the weights of the model in ``folder`` into ``vlm``, except for its ``new_parts``."""
    source_model = read_model(folder, allow=allow)
    if not new_parts:
        vlm.load_state_dict(source_model.state_dict())
        return
    for part in WEIGHTED_GROUPS:
        if part not in new_parts:
            vlm.get_submodule(part).load_state_dict(source_model.get_submodule(part).state_dict())


def mismatched_parameters(vlm: nn.Module, folder: Path, parts: Sequence[str]) -> list[str]:
    """Return those of ``parts`` whose tensors in ``vlm`` differ from the stored ones in name or shape."""
    own = {name: tuple(value.shape) for name, value in vlm.state_dict().items()}
    new_parameters = {name: own[name] for name in tie_groups(vlm)}
    stored = read_model_shapes(folder)
    return [
        part
        for part in parts
        if {n: s for n, s in new_parameters.items() if _is_new(n, [part])}
        != {n: s for n, s in stored.items() if _is_new(n, [part])}
    ]


def _is_new(name: str, new_parts: Sequence[str]) -> bool:
    return name.partition(".")[0] in new_parts


def literal(value: Any) -> Any:
    """Return ``value`` with escaped interpolations, so that Hydra takes text as it is."""
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
