"""Places a model on several devices, and what does not fit into the memory of the CPU or on the disk.

Layers of the language model may be anywhere; everything else stays on one device, on which offloaded layers
are computed too. accelerate moves their weights there for each call and back afterwards.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hdvl.model import VLM
from hdvl.precision import check_device

OTHERS = "others"
"""In a mapping of modules to devices, all modules that it does not name."""


def place(
    vlm: VLM,
    device_map: str | Mapping[str, Any],
    *,
    max_memory: Mapping[Any, Any] | None = None,
    offload_folder: str | None = None,
) -> None:
    """Place ``vlm`` in place, without changing what it computes.

    Args:
        vlm: the model, on the CPU.
        device_map: ``auto`` fills the devices of this machine one after the other, then the CPU's memory,
            then the disk. Or a mapping from names of modules, such as ``llm`` or
            ``llm.model.model.layers.3``, to devices (``cuda:0``, ``cpu``) or ``disk``; the longest name that
            fits a module counts, and ``others`` matches all other modules.
        max_memory: for ``auto``, the most memory of each device, as ``{0: "20GiB", "cpu": "60GiB"}``; what
            answers need besides the weights must be left out of it. ``None`` for what is free.
        offload_folder: a folder for layers on the disk; they are removed at the end of the process.

    Raises:
        ValueError: a module or a device is unknown, something else than layers is not on one device, there is
            no folder for the disk, or the model does not fit.
    """
    layers = layers_of(vlm)
    if isinstance(device_map, str):
        if device_map != "auto":
            raise ValueError(
                f"device_map must be auto, or a mapping of modules to devices, got {device_map!r}"
            )
        main, placed = _automatic(vlm, layers, max_memory)
    else:
        main, placed = _given(vlm, layers, device_map)
    whole = {name: main for name in _others(vlm, set(layers))} | placed
    folder = None
    if "disk" in placed.values():
        if offload_folder is None:
            count = sum(device == "disk" for device in placed.values())
            raise ValueError(
                f"offload_folder must be given, {count} of {len(placed)} layers go to the disk"
            )
        os.makedirs(offload_folder, exist_ok=True)
        # A folder of its own: accelerate would read the layers of another model that lie there.
        folder = tempfile.TemporaryDirectory(dir=offload_folder, prefix="layers-")
        weakref.finalize(vlm, folder.cleanup)
    from accelerate import dispatch_model

    dispatch_model(
        vlm,
        whole,
        main_device=main,
        offload_dir=None if folder is None else folder.name,
        force_hooks=len({main, *placed.values()}) > 1,
    )


def layers_of(vlm: VLM) -> dict[str, nn.Module]:
    """The layers of the language model by their names in ``vlm``.

    Raises:
        ValueError: the language model has none that are known.
    """
    backbone = vlm.llm.backbone
    kinds = set(getattr(backbone, "_no_split_modules", None) or ())
    found = {
        name: module
        for name, module in vlm.named_modules()
        if name.startswith("llm.") and type(module).__name__ in kinds
    }
    if not found:
        raise ValueError(
            f"device_map needs a language model of transformers that says what its layers are, "
            f"{type(backbone).__name__} does not; use device"
        )
    return found


def _others(module: nn.Module, layers: set[str], name: str = "") -> Iterator[str]:
    """The names of the largest modules without layers, and of what lies beside modules that have some."""
    inner = f"{name}." if name else ""
    if name and name not in layers and not any(layer.startswith(inner) for layer in layers):
        yield name
    elif name not in layers:
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        yield from (inner + one for one, _ in own)
        for child, part in module.named_children():
            yield from _others(part, layers, inner + child)


def _given(
    vlm: VLM, layers: Mapping[str, nn.Module], device_map: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    names = {name for name, _ in vlm.named_modules() if name} | {OTHERS}
    for name, device in device_map.items():
        if name not in names:
            known = ", ".join([*(child for child, _ in vlm.named_children()), *list(layers)[:1]])
            raise ValueError(
                f"device_map names {name!r}, which is no module; there are {known}, ..."
            )
        if device != "disk":
            check_device(device)

    def device_of(name: str) -> Any:
        fitting = [one for one in device_map if f"{name}.".startswith(f"{one}.")]
        if not fitting and OTHERS not in device_map:
            raise ValueError(
                f"device_map must name a device for {name}; {OTHERS} matches all other modules"
            )
        return device_map[max(fitting, key=len) if fitting else OTHERS]

    others = {name: device_of(name) for name in _others(vlm, set(layers))}
    devices = list(dict.fromkeys(others.values()))
    if len(devices) > 1 or devices == ["disk"]:
        first = {device: next(one for one in others if others[one] == device) for device in devices}
        raise ValueError(
            "device_map must place everything but the layers of the language model on one device, got "
            + ", ".join(f"{name} on {device}" for device, name in first.items())
        )
    return devices[0], {name: device_of(name) for name in layers}


def _automatic(
    vlm: VLM, layers: Mapping[str, nn.Module], max_memory: Mapping[Any, Any] | None
) -> tuple[Any, dict[str, Any]]:
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_max_memory

    numbered = {
        int(key) if str(key).isdigit() else key: value for key, value in (max_memory or {}).items()
    }
    free = get_max_memory(numbered or None)
    main = next(iter(free))
    rest = _bytes(vlm) - sum(map(_bytes, layers.values()))
    largest = max(map(_bytes, layers.values()))
    if rest + largest > free[main]:
        raise ValueError(
            f"the model does not fit: all but the layers of its language model, and room for one of "
            f"these, take {(rest + largest) / 2**30:.2f} GiB on device {main}, which has "
            f"{free[main] / 2**30:.2f} GiB; use a smaller dtype, or another device"
        )
    free[main] -= rest
    blocks = nn.ModuleList(layers.values())
    kinds = sorted({type(layer).__name__ for layer in layers.values()})
    found = infer_auto_device_map(blocks, max_memory=free, no_split_module_classes=kinds)
    return main, {name: found.get("", found.get(str(place))) for place, name in enumerate(layers)}


def _bytes(module: nn.Module) -> int:
    held = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return sum(one.numel() * one.element_size() for one in held.values())
