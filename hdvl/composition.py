"""Configurations of runs that start from the composition of an existing model."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdvl.config import compose, resolve, to_unresolved, values_of
from hdvl.overrides import for_checkpoint, typed_overrides
from hdvl.plain import is_part, merge

PART_GROUPS = ("tiler", "encoder", "bridge", "merger", "llm", "template")


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Return the groups (``encoder``) and keys (``encoder.name``) of overrides."""
    keys = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in overrides]
    return [key.removeprefix("model.") for key in keys]


def changes_of(cfg: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return the changes of a checkpoint by ``keys``: complete parts that were chosen, else single values."""
    node = cfg["model"]
    changes: dict[str, Any] = {key: node[key] for key in keys if key in PART_GROUPS}
    for key in keys:
        part, *path = key.split(".")
        if part not in (*PART_GROUPS, "encode_chunk") or (part in keys and path):
            continue
        here, value = changes, node
        for name in (part, *path)[:-1]:
            here, value = here.setdefault(name, {}), value[name]
        last = (part, *path)[-1]
        here[last] = value[last]
    return changes


def tiler_follows(keys: Sequence[str]) -> bool:
    """Return whether a tiler was chosen without a tile size, so that it takes that of the encoder."""
    own = ("tiler.tile_size", "tiler.stride", "tiler.multiple_of")
    return "tiler" in keys and not any(key in own for key in keys)


def with_init_from(plain: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with the composition of ``init_from`` and the changes of the command line.

    With ``model=`` or ``experiment=`` the composition is that of the preset, and the config is returned
    unchanged. A part that is chosen on the command line (``encoder=timm``) replaces that of the folder and
    does not start from the folder's weights; neither do the bridge and the merger if their weights no
    longer fit. Single values (``tiler.max_tiles=4``) change the folder's part.

    Args:
        plain: the composed config with unresolved interpolations.
        given: keys and values of the command line.

    Raises:
        ValueError: there is no such model, or its parts do not have a key.
    """
    if plain["init_from"] is None or "model" in given or "experiment" in given:
        return dict(plain)
    from hdvl.checkpoints.native import override
    from hdvl.checkpoints.nodes import Node, marked, unmarked
    from hdvl.checkpoints.sources import find_folder, read_node
    from hdvl.inference.recompose import following_tiler, replaced_parts
    from hdvl.meta import on_meta
    from hdvl.training.start import literal, mismatched_parameters

    requested = resolve({key: plain[key] for key in (*PART_GROUPS, "model", "init_from", "allow")})
    folder, keys = find_folder(str(requested["init_from"])), keys_of([f"{key}=" for key in given])
    changes = changes_of(requested, keys)
    new = replaced_parts(changes)
    node = Node(override(read_node(folder, allow=requested["allow"]), marked(changes)))
    if ("encoder" in new and "tiler" not in changes) or tiler_follows(keys):
        node["tiler"] = following_tiler(node["tiler"], on_meta(unmarked(node["encoder"])))
    model = literal(unmarked(node))
    if new:
        new |= set(mismatched_parameters(on_meta(model), folder, ("bridge", "merger")))
    parts = {part: model[part] for part in PART_GROUPS}
    rest = {key: value for key, value in model.items() if key not in parts}
    return {
        **plain,
        **parts,
        "model": {**rest, **{part: f"${{{part}}}" for part in parts}},
        "new_parts": sorted(new | set(plain["new_parts"])),
    }


def with_fine_tuning(plain: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run that starts from a model, with the values of ``fine_tuning`` as defaults.

    Keys that are ``given`` on the command line are not changed.
    """
    changes = plain["fine_tuning"]
    if plain["init_from"] is None or "experiment" in given or plain["stages"] or not changes:
        return dict(plain)

    def refuse(where: str, keys: list[str], node: Mapping[str, Any]) -> ValueError:
        return ValueError(f"fine_tuning.{where}{keys[0]} is no key of the config")

    return merge(plain, _not_given(changes, given), replaces=is_part, refuse=refuse)


def _not_given(
    changes: Mapping[str, Any], given: Mapping[str, Any], place: str = ""
) -> dict[str, Any]:
    """Return those of ``changes`` whose key, or a key above it, is not set on the command line."""
    left: dict[str, Any] = {}
    for key, value in changes.items():
        if f"{place}{key}" in given:
            continue
        inner = _not_given(value, given, f"{place}{key}.") if isinstance(value, Mapping) else value
        if inner != {}:
            left[key] = inner
    return left


def fit(*overrides: str, live_plot: bool = False) -> Path:
    """Train like ``hdvl train`` with these ``overrides``, and return the folder of the trained model.

    >>> fit("init_from=hdvl/small", "data=llava", "data.train.path=mine.json")  # doctest: +SKIP

    Args:
        *overrides: the arguments of the command line.
        live_plot: whether to plot the losses below the cell of a notebook during the training.

    Raises:
        ValueError: the config is wrong; nothing was trained.
        Stopped: the training was stopped by Ctrl-C; the message says how to resume it.
    """
    from hdvl.data.build import build_data
    from hdvl.training.run import run
    from hdvl.training.stages import check_effect

    changed, _ = for_checkpoint(list(overrides), "init_from")
    words = typed_overrides(changed)
    plain, given = to_unresolved(compose(*words)), values_of(words)
    config = with_fine_tuning(with_init_from(plain, given), given)
    if live_plot:
        target = "hdvl.callbacks.live_plot.LivePlot"
        own = {"_target_": target, "folder": "${run_dir}"}
        config["callbacks"] = {**config["callbacks"], "live_plot": own}
    config["run_dir"] = resolve(config)["run_dir"]  # resolved once, because ${now:} changes
    check_effect(config, given)
    return run(config, build_data, command_line=shlex.join(["hdvl", "train", *overrides]))
