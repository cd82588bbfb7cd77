"""Frozen weights that are read again from their source, so that checkpoints need not contain them.

A run that is resumed builds its model again in the way it did at first: from ``weights`` of the encoder,
``path`` of the language model, a ``folder`` or ``init_from``. A checkpoint therefore stores a hash of such
a parameter in place of its values while it is frozen. Of embedding tables with rows of added tokens it
stores those rows, which are in no file, and a hash of the others. Parameters with random initial values,
buffers and everything that an earlier stage may have changed stay in the checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hdvl.model import VLM
from hdvl.training.audit import fingerprint, shorten
from hdvl.training.checkpoint_formats import PREFIX
from hdvl.training.tuning import MODULES, NEW_TOKENS

LEFT_OUT = "frozen"
"""The key of a checkpoint with names, hashes and dtypes of the parameters that it does not contain.

Of a table with added rows the entry also has their ``ids``, and ``rows`` (number of ids, width).
"""


class Source:
    """The parameters of a newly built model that were read from files, with hashes of their values.

    Args:
        vlm: the model as it is before the first stage, without adapters.
        parts: the parts whose weights were read from files (see :func:`parts_from_files`).
        tables: embedding tables of these parts that have rows besides those of the files.
        ids: the numbers of these rows.
    """

    def __init__(
        self,
        vlm: nn.Module,
        parts: Sequence[str],
        tables: Sequence[nn.Parameter] = (),
        ids: Sequence[int] = (),
    ) -> None:
        self._hashes: Any = WeakTensorKeyDictionary()  # adapters replace some of the parameters
        self._parts: Any = WeakTensorKeyDictionary()
        self._tables: Any = WeakTensorKeyDictionary({table: True for table in tables if ids})
        self._ids = list(ids)
        for name, parameter in vlm.named_parameters():
            part = name.partition(".")[0]
            if part in parts:
                own = self._without_added(parameter) if parameter in self._tables else parameter
                self._hashes[parameter], self._parts[parameter] = fingerprint(own), part

    def _without_added(self, table: Tensor) -> Tensor:
        """The rows of ``table`` that were read from a file."""
        read = torch.ones(len(table), dtype=torch.bool, device=table.device)
        read[self._ids] = False
        return table.detach()[read]

    def leave_out(self, checkpoint: dict[str, Any], vlm: nn.Module) -> None:
        """Replace the frozen parameters in the ``state_dict`` of ``checkpoint`` by their hashes."""
        left_out: dict[str, dict[str, Any]] = {}
        state = dict(checkpoint["state_dict"])
        for name, tensor in vlm.state_dict(keep_vars=True).items():
            if not tensor.requires_grad and tensor in self._hashes:
                value = state.pop(f"{PREFIX}{name}")
                dtype = str(value.dtype).removeprefix("torch.")
                left_out[name] = {"hash": self._hashes[tensor], "dtype": dtype}
                if tensor in self._tables:
                    left_out[name] |= {"ids": self._ids, "rows": value[self._ids]}
        checkpoint["state_dict"], checkpoint[LEFT_OUT] = state, left_out

    def fill_in(self, checkpoint: dict[str, Any], vlm: nn.Module) -> None:
        """Add the parameters that ``checkpoint`` does not contain to its ``state_dict``.

        Raises:
            ValueError: some differ from those of the run that wrote the checkpoint.
        """
        left_out: Mapping[str, Mapping[str, Any]] = checkpoint.get(LEFT_OUT, {})
        present: dict[str, Tensor] = vlm.state_dict(keep_vars=True)
        changed = {
            name
            for name, entry in left_out.items()
            if name not in present or self._hashes.get(present[name]) != entry["hash"]
        }
        if changed:
            raise ValueError(
                "the frozen weights must be those that the run started from, because its checkpoints "
                f"do not contain them; these differ: {shorten(changed)}; put the files back that "
                "weights, path, folder or init_from name"
            )
        for name, entry in left_out.items():
            value = present[name].detach().to(getattr(torch, entry["dtype"]))
            if "ids" in entry:
                value = value.clone()
                value[entry["ids"]] = entry["rows"].to(value.device)
            checkpoint["state_dict"][f"{PREFIX}{name}"] = value

    def end_stage(self, tuning: Mapping[str, Any]) -> None:
        """Forget the parts that a stage with this ``tuning`` may have changed."""
        moved = {part for part in MODULES if not stays(tuning, part)}
        for parameter, part in list(self._parts.items()):
            if part in moved:
                del self._hashes[parameter], self._parts[parameter]


def stays(tuning: Mapping[str, Any], part: str) -> bool:
    """Return whether all weights of ``part`` stay as they are during a stage with this ``tuning``."""
    some = (tuning.get("also") or {}).get(part) or (part == "llm" and tuning.get(NEW_TOKENS))
    return tuning[part] == "frozen" and not some


def source_of(vlm: VLM, stage: Mapping[str, Any]) -> Source:
    """Return the source of the weights of ``vlm`` as it is before the first ``stage`` of a run.

    Parts that this stage trains in full are not included.
    """
    init_from = stage["init_from"]
    found = parts_from_files(stage["model"], init_from, stage.get("new_parts") or ())
    parts = [part for part in found if stage["tuning"][part] != "full"]
    # Rows of added tokens are computed, and may differ in the last bit with another number of threads.
    llm: Any = vlm.llm
    ids: tuple[int, ...] = llm.new_ids if init_from is None else ()
    tables = [layer.weight for layer in llm.embedding_layers()] if ids else []
    return Source(vlm, parts, tables, ids)


def parts_from_files(
    node: Mapping[str, Any], init_from: object, new_parts: Sequence[str]
) -> list[str]:
    """Return the parts of a model node all of whose weights are read from files.

    >>> parts_from_files({"encoder": {"weights": "a.pth"}, "llm": {"config": {}}}, None, ())
    ['encoder']
    """
    if init_from is not None:
        return [part for part in MODULES if part not in new_parts]
    return [
        part
        for part in MODULES
        if any((node.get(part) or {}).get(key) for key in ("weights", "path", "folder"))
    ]
