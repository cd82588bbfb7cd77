"""Exports a model folder to transformers, tensor by tensor, and checks the result."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hdvl.checkpoints.exporters import idefics3, internvl, llava
from hdvl.checkpoints.exporters.agreement import disagreements
from hdvl.checkpoints.exporters.jinja import chat_template
from hdvl.checkpoints.exporters.target import (
    Exported,
    TransformersTarget,
    new_folder,
    save_generation,
)
from hdvl.checkpoints.exporters.tokenizer import for_processor
from hdvl.checkpoints.importers import mapping as table
from hdvl.checkpoints.importers.mapping import TensorSource
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.native import unfilled
from hdvl.checkpoints.shards import GB, find_shards, write_shards
from hdvl.checkpoints.skeleton import parameters_on_meta
from hdvl.files import atomic_folder
from hdvl.model import VLM


def export(
    folder: str | Path,
    to: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] = (),
    max_shard: int = 4 * GB,
) -> Exported:
    """Write the model in ``folder`` for transformers: model, processor, chat template and tokenizer.

    ``AutoModelForImageTextToText`` and ``AutoProcessor`` load it without custom code. Before the folder is
    moved in place, a probe conversation with images must give the same ids and pixels as in hdvl.

    Args:
        folder: a model folder of hdvl.
        to: the folder to write, which must not exist.
        overrides: values of the model node to change first, as in ``load_folder``.
        allow: packages whose classes the folder may name, as in ``load_folder``.
        max_shard: the largest size of a written weight file in bytes.

    Raises:
        ValueError: no class of transformers can represent this model; all reasons are listed.
    """
    folder, to = Path(folder), new_folder(to)
    vlm = unfilled(folder, overrides or {}, allow).eval()
    target = target_of(vlm)
    published = Published.in_files(find_shards(folder))
    with atomic_folder(to) as written:
        architecture = _write_model(target, vlm, published, written, max_shard)
        _write_processor(target, vlm, written)
        wrong = disagreements(vlm, written)
        if wrong:
            raise ValueError(
                f"the exported processor must give the ids and pixels of hdvl: {'; '.join(wrong)}"
            )
    return Exported(to, architecture, target.notes)


def target_of(vlm: VLM) -> TransformersTarget:
    """The description of ``vlm`` in terms of a class of transformers.

    Raises:
        ValueError: no class can represent it; all reasons are listed.
    """
    if internvl.is_like(vlm):
        found, reasons = internvl.target(vlm)
    elif idefics3.is_like(vlm):
        found, reasons = idefics3.target(vlm)
    elif llava.is_like(vlm):
        found, reasons = llava.target(vlm)
    else:
        found = None
        parts = f"encoder {type(vlm.encoder).__name__} with bridge {type(vlm.bridge).__name__}"
        reasons = [
            f"{parts} is neither InternVL (InternViT, PixelShuffleMLP) nor LLaVA "
            "(TransformersEncoder of CLIP or SigLIP, MLP) nor Idefics3 or SmolVLM "
            "(TransformersEncoder of their own towers, PixelShuffleMLP)"
        ]
    if found is None:
        raise ValueError(f"no class of transformers can represent this model: {'; '.join(reasons)}")
    return found


def entries(target: TransformersTarget, model: Any) -> dict[str, TensorSource]:
    """The source, by its name in hdvl, of each tensor of transformers' ``model``."""
    targets = list(table.targets_of(model))
    own = {name: entry for name, entry in target.make.items() if name in targets}
    return table.renamed(targets, target.names) | own


def on_meta(target: TransformersTarget) -> Any:
    """The model of transformers that ``target`` describes, with its parameters on ``meta``."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    plain = dict(target.config)
    config = AutoConfig.for_model(plain.pop("model_type"), **plain)
    with parameters_on_meta():
        return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def _write_model(
    target: TransformersTarget, vlm: VLM, published: Published, folder: Path, max_shard: int
) -> str:
    model = on_meta(target)
    model.tie_weights()
    mapping = entries(target, model)
    table.check(mapping, published, model)
    dtype = published.common_dtype()
    sources = {
        _stored_name(name, target): mapping[name]
        for name in table.in_reading_order(mapping, published)
    }
    layouts = {
        name: table.meta_tensor(source, published, dtype) for name, source in sources.items()
    }

    def read(name: str) -> Tensor:
        return table.read_tensor(sources[name], published, dtype)

    write_shards(layouts, folder, max_bytes=max_shard, read=read)
    architecture = type(model).__name__
    model.config.architectures = [architecture]
    model.config.dtype = dtype
    model.config.save_pretrained(folder)
    save_generation(vlm, folder)
    return architecture


def _stored_name(name: str, target: TransformersTarget) -> str:
    """The name in the written files of the tensor that the class of transformers calls ``name``."""
    for pattern, stored in target.stored:
        name = re.sub(pattern, stored, name)
    return name


def _write_processor(target: TransformersTarget, vlm: VLM, folder: Path) -> None:
    tokenizer = for_processor(vlm, folder, wraps=target.wraps, tokens=target.tokens)
    source = chat_template(vlm.template, wraps=target.wraps)
    target.processor(tokenizer, source).save_pretrained(folder)
