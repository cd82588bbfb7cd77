"""hdvl's own model folder, which is loaded without network access.

It is written to a temporary folder and renamed; an interrupted write leaves the old folder.

::

    config.yaml          plain data: the model node, which names parts of hdvl and nothing else
    model.safetensors    the weights, or model-0000x-of-0000y.safetensors and an index
    tokenizer/           the tokenizer's files, if the model has one
    preprocessing.json   tiler and pixel numbers, hashes of golden tiles
    version.json         versions that wrote it
    README.md            model card with the licence
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hdvl.checkpoints import preprocessing
from hdvl.checkpoints.card import model_card, versions
from hdvl.checkpoints.known import MODEL, checked, foreign_packages, located
from hdvl.checkpoints.nodes import TARGET, Node, assemble, marked, target_of, unmarked
from hdvl.checkpoints.selfcontained import TOKENIZER, self_contained
from hdvl.checkpoints.shards import (
    GB,
    NotFinite,
    check_keys,
    check_types,
    find_shards,
    read_shapes,
    read_tensors,
    stored_tensors,
    tie_groups,
    write_shards,
)
from hdvl.checkpoints.skeleton import fill, parameters_on_meta, tie, untied
from hdvl.files import atomic_folder, read_yaml
from hdvl.keys import arguments_of, check_values, refuse_given, similar
from hdvl.llms import save_tokenizer
from hdvl.model import VLM
from hdvl.overrides import check_renamed
from hdvl.plain import dotted_keys, is_part, merge

FORMAT = 1
RUN_MODEL = "model"
"""The name of the model's folder in a run folder."""
CONFIG = "config.yaml"
PART_NAMES = ("tiler", "encoder", "bridge", "merger", "llm", "template")


def save_folder(
    vlm: VLM,
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    licence: str = "unknown",
    card: str | None = None,
    base_model: str | None = None,
    about: str = "",
    max_shard: int = 4 * GB,
) -> Path:
    """Write ``vlm`` to ``folder``. A model that is there is replaced; if saving fails, it is kept.

    Args:
        vlm: a model without adapters (merge them first).
        folder: the folder to write; parent folders are created.
        config: plain data with the resolved ``model`` node. Other keys are kept as they are, except
            those that repeat a part of the model.
        licence: the licence of the weights for the card, as an SPDX identifier or free text.
        card: a model card, including the licence, to write instead of the generated one.
        base_model: for the generated card, the model that this one was fine-tuned from.
        about: for the generated card, Markdown about data, training and scores.
        max_shard: the largest size of one weight file in bytes.

    Raises:
        ValueError: the model has adapters or does not fit ``config``, or ``folder`` contains files that are
            no model.
    """
    _refuse_adapters(vlm)

    def weights(written: Path) -> None:
        write_shards(stored_tensors(vlm), written, max_bytes=max_shard)

    return write_folder(
        vlm,
        folder,
        config,
        weights=weights,
        licence=licence,
        card=card,
        base_model=base_model,
        about=about,
    )


def write_folder(
    vlm: VLM,
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    weights: Callable[[Path], None],
    licence: str = "unknown",
    card: str | None = None,
    base_model: str | None = None,
    about: str = "",
) -> Path:
    """:func:`save_folder` with weight files written by ``weights``; ``vlm`` may be on ``meta``."""
    if "model" not in config:
        raise ValueError(f"config must have the node model, got keys {sorted(config)}")
    folder = Path(folder)
    _check_replaceable(folder)
    model = config["model"]
    model = unmarked(model) if isinstance(model, Node) else model
    # The caller wrote this configuration, or allowed its packages when it was loaded.
    node = self_contained(model, vlm)
    allow = foreign_packages(node)
    rest = {key: value for key, value in config.items() if key != "model" and key not in node}
    plain = {"format": FORMAT, **rest, "model": node}
    text = card or model_card(
        name=folder.resolve().parent.name if folder.name == RUN_MODEL else folder.name,
        licence=licence,
        node=node,
        vlm=vlm,
        allow=allow,
        base_model=base_model,
        about=about,
    )
    with atomic_folder(folder) as written:
        weights(written)
        _write(vlm, written, plain, text)
        _check_rebuilds(vlm, written, allow)
    return folder


def load_folder(
    folder: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    check: bool = True,
    allow: str | Sequence[str] = (),
) -> VLM:
    """Load the model in ``folder``, in evaluation mode. Only files of that folder are read.

    Args:
        folder: a folder that :func:`save_folder` wrote; it may have been renamed or moved.
        overrides: values of the model node to change, see :func:`override`.
        check: warn if the golden images are not tiled as they were when the model was saved. Skipped if
            there are ``overrides``, which may change the tiling on purpose.
        allow: packages whose classes the folder may name besides the parts of hdvl. Their code runs.

    Raises:
        ValueError: it is no model folder, has a newer format, its configuration is not allowed or cannot
            be built, weights are damaged, or keys do not fit (all are listed).
    """
    folder = Path(folder)
    vlm = unfilled(folder, overrides or {}, allow)
    files = find_shards(folder)
    check_keys(vlm, read_shapes(files), source=repr(str(folder)))
    check_types(vlm, files)
    odd = NotFinite(", ".join(map(str, files[:3])))
    fill(vlm, odd.passing(read_tensors(files)))
    odd.warn()
    vlm.eval()
    if check and not overrides:
        found = preprocessing.verify(folder, vlm)
        if found:
            warnings.warn(
                f"preprocessing of {str(folder)!r} differs from that at saving: {'; '.join(found)}",
                stacklevel=2,
            )
    return vlm


def is_model_folder(folder: str | Path) -> bool:
    """Whether ``folder`` has a configuration like those that :func:`save_folder` writes."""
    file = Path(folder) / CONFIG
    if not file.is_file():
        return False
    plain = read_yaml(file)
    return isinstance(plain, dict) and "format" in plain and "model" in plain


def read_config(folder: str | Path, *, allow: str | Sequence[str] = ()) -> dict[str, Any]:
    """The plain configuration stored in a model folder; nothing is built from it.

    Raises:
        ValueError: as in :func:`load_folder`.
    """
    return _read_config(Path(folder), allow)[0]


def model_node(folder: str | Path, *, allow: str | Sequence[str] = ()) -> Node:
    """The node of the model in ``folder``, ready to be built, with the path of its tokenizer."""
    found: Node = located(_read_config(Path(folder), allow)[1], Path(folder))
    return found


def _read_config(folder: Path, allow: str | Sequence[str]) -> tuple[dict[str, Any], Node]:
    if not is_model_folder(folder):
        raise ValueError(
            f"model folder must hold a {CONFIG} with format and model, {str(folder)!r} does not; "
            "give a folder that hdvl saved"
        )
    file = folder / CONFIG
    plain: dict[str, Any] = read_yaml(file)
    if plain["format"] != FORMAT:
        raise ValueError(
            f"model folder {str(folder)!r} has format {plain['format']}, this hdvl reads {FORMAT}; "
            "install a newer hdvl"
        )
    node = checked(plain["model"], source=file, allow=allow)
    for key in dotted_keys({name: value for name, value in plain.items() if name != "model"}):
        check_renamed(key, file)
    if not isinstance(node, Node):
        raise ValueError(f"{file} must have a mapping with a {TARGET} as model")
    if node[TARGET] == MODEL:
        absent = [f"model.{part}" for part in PART_NAMES if not isinstance(node.get(part), Node)]
        if absent:
            raise ValueError(
                f"{file} must have a mapping with a {TARGET} as {', '.join(absent)}; copy it again"
            )
    elif str(node[TARGET]).startswith("hdvl."):
        raise ValueError(f"{file} must have {MODEL} as model.{TARGET}, got {node[TARGET]}")
    return plain, node


def override(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``node`` with ``changes``: mappings are merged; a mapping with ``_target_`` replaces the whole part.

    >>> override({"tiler": {"max_tiles": 64, "exif": True}}, {"tiler": {"max_tiles": 4}})
    {'tiler': {'max_tiles': 4, 'exif': True}}
    """

    def refuse(where: str, keys: Sequence[str], node: Mapping[str, Any]) -> ValueError:
        unknown = ", ".join(sorted(f"{where}{key}" for key in keys))
        names = [key for key in [*node, *_arguments(node)] if not str(key).startswith("_")]
        return ValueError(
            f"model has no {unknown} to override{similar(keys[0], list(dict.fromkeys(names)))}"
        )

    merged = merge(node, changes, replaces=is_part, refuse=refuse, optional=_arguments)
    values = dict(_values(changes))
    for key in values:
        refuse_given(key)
    check_values(node, values)
    return merged


def _arguments(node: Mapping[str, Any]) -> list[str]:
    """The arguments that the class of ``node`` accepts; empty if its target is not a class."""
    if not isinstance(node, Node):
        return []
    return arguments_of(target_of(node[TARGET], source="the model", where=node[TARGET])) or []


def _values(changes: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each value that ``changes`` sets in parts that are kept."""
    for key, value in changes.items():
        if not isinstance(value, Mapping):
            yield f"{place}{key}", value
        elif TARGET not in value:
            yield from _values(value, f"{place}{key}.")


def unfilled(folder: Path, overrides: Mapping[str, Any], allow: str | Sequence[str] = ()) -> VLM:
    """The model in ``folder`` with its parameters on ``meta``."""
    node = Node(override(model_node(folder, allow=allow), marked(overrides)))
    return build_vlm(node, source=folder / CONFIG)


def build_vlm(node: Node, *, source: object) -> VLM:
    """Build the model of ``node`` with its parameters on ``meta``; ``source`` is named in messages.

    Raises:
        ValueError: it cannot be built, or is no model.
    """
    with parameters_on_meta():
        vlm = assemble(node, source=source)
    if not isinstance(vlm, VLM):
        raise ValueError(f"{source} must describe a {MODEL}, it gives a {type(vlm).__name__}")
    tie(vlm)
    return vlm


def _write(vlm: VLM, folder: Path, plain: dict[str, Any], card: str) -> None:
    node = plain["model"]
    if vlm.llm.tokenizer is not None:
        save_tokenizer(vlm.llm.tokenizer, folder / TOKENIZER)
    described = preprocessing.describe(vlm.tiler, vlm.encoder, node["tiler"])
    for name, content in (
        (CONFIG, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)),
        (preprocessing.FILE, json.dumps(described, indent=2) + "\n"),
        ("version.json", json.dumps(versions(), indent=2) + "\n"),
        ("README.md", card),
    ):
        (folder / name).write_text(content, encoding="utf-8")


def _check_rebuilds(vlm: VLM, folder: Path, allow: Sequence[str]) -> None:
    """Check that the configuration in the folder gives exactly the tensors that were written."""
    again = unfilled(folder, {}, allow)
    files = find_shards(folder)
    check_keys(again, read_shapes(files), source="config['model']")
    check_types(again, files)
    differing = untied(again, tie_groups(vlm))
    if differing:
        raise ValueError(f"ties must be those of config['model'], they differ: {differing}")


def _refuse_adapters(vlm: VLM) -> None:
    found = [name for name in vlm.state_dict() if "lora_" in name or ".base_layer." in name]
    if found:
        raise ValueError(
            f"model must have no adapters, got {len(found)} such as {found[0]}; call "
            "hdvl.training.tuning.merge_lora(vlm) first"
        )


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not is_model_folder(folder):
        raise ValueError(
            f"folder {str(folder)!r} contains files that are no model; give another folder, or empty it"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder {str(folder)!r} is a file; give another name")
