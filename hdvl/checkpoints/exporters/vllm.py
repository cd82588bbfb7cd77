"""Exports any composition for vLLM, which runs it by the plug-in ``hdvl.integrations.vllm``.

The folder is a model folder of hdvl with the files that vLLM reads besides: ``config.json``, the tokenizer,
its chat template and ``generation_config.json``.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from hdvl.checkpoints.exporters.agreement import as_parts, different_ids, probe_conversation
from hdvl.checkpoints.exporters.jinja import chat_template
from hdvl.checkpoints.exporters.target import Exported, causal_model, new_folder, save_generation
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.known import foreign_packages
from hdvl.checkpoints.native import model_node, override, read_config, unfilled, write_folder
from hdvl.checkpoints.nodes import Node, marked
from hdvl.checkpoints.shards import INDEX, find_shards
from hdvl.files import atomic_folder
from hdvl.llms import save_tokenizer
from hdvl.llms.rotary import rotary_by_length
from hdvl.model import VLM
from hdvl.processor import Processor
from hdvl.templates.placeholders import expand_ids, layout_ids

CARD = "README.md"
ARCHITECTURE = "HdvlForConditionalGeneration"
MODEL_TYPE = "hdvl"


def export_for_vllm(
    folder: str | Path,
    to: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    allow: str | Sequence[str] = (),
) -> Exported:
    """Write the model in ``folder`` for vLLM: a copy of the folder, with the files that vLLM reads.

    Before the folder is moved in place, a probe conversation with images must give the same ids through the
    chat template as in hdvl.

    Args:
        folder: a model folder of hdvl.
        to: the folder to write, which must not exist.
        overrides: values of the model node to change first, as in ``load_folder``.
        allow: packages whose classes the folder may name. A model that needs them is refused.

    Raises:
        ValueError: vLLM cannot run this model; all reasons are listed.
    """
    folder, to = Path(folder), new_folder(to)
    vlm = unfilled(folder, overrides or {}, allow).eval()
    node = Node(override(model_node(folder, allow=allow), marked(overrides or {})))
    text, reasons = causal_model(vlm)
    reasons += _reasons(vlm, node)
    if reasons:
        raise ValueError(f"vLLM cannot run this model: {'; '.join(reasons)}")
    files = find_shards(folder)
    tokenizer = deepcopy(vlm.llm.tokenizer)
    # The plug-in replaces image tokens only, so that the template writes the tokens around an image.
    tokenizer.chat_template = chat_template(vlm.template, wraps=False)
    wrong = _first_difference(vlm, tokenizer)
    if wrong:
        raise ValueError(f"the chat template must give the ids of hdvl: {wrong}")
    backbone: Any = vlm.llm
    config = {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": str(Published.in_files(files).common_dtype()).removeprefix("torch."),
        "image_token_id": vlm.image_token_id,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": text | {"architectures": [type(backbone.model).__name__]},
    }

    def weights(written: Path) -> None:
        for file in (*files, folder / INDEX):
            if file.is_file():
                shutil.copy2(file, written)

    plain = {**read_config(folder, allow=allow), "model": node}
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None
    with atomic_folder(to) as written:
        write_folder(vlm, written, plain, weights=weights, card=card)
        (written / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_generation(vlm, written)
        save_tokenizer(tokenizer, written)
    return Exported(to, ARCHITECTURE, _notes(vlm))


def _reasons(vlm: VLM, node: Mapping[str, Any]) -> list[str]:
    """Reasons why vLLM cannot run the model, besides those of its language model."""
    reasons = []
    packages = foreign_packages(node)
    if packages:
        reasons.append(
            f"its parts are of {', '.join(packages)}, and processes of vLLM load only parts of hdvl"
        )
    if isinstance(vlm.llm.backbone, nn.Module) and rotary_by_length(vlm.llm.backbone):
        reasons.append(
            "the rotary frequencies of the language model depend on the length of each text, and those "
            "of vLLM do not"
        )
    try:
        chat_template(vlm.template, wraps=False)
    except ValueError as error:
        reasons.append(str(error))
    return reasons


def _first_difference(vlm: VLM, tokenizer: Any) -> str:
    """The first difference between the ids of a conversation in vLLM and in hdvl; empty if there is none.

    vLLM writes the conversation by the chat template, tokenises it, and the plug-in then replaces each image
    token by the layout of its image.
    """
    talk = probe_conversation()
    sample = Processor.of(vlm)(talk, add_generation_prompt=True)
    wanted = sample.ids.tolist()
    text = tokenizer.apply_chat_template(as_parts(talk), tokenize=False, add_generation_prompt=True)
    token, layout = vlm.template.image_token, vlm.merger.layout
    images = [layout_ids(tokenizer, token, layout(plan)) for plan in sample.plans]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = expand_ids(tokenizer, token, ids, images).ids
    return "" if found == wanted else different_ids(tokenizer, found, wanted)


def _notes(vlm: VLM) -> tuple[str, ...]:
    """Notes on how answers and images differ in vLLM."""
    tokenizer, notes = vlm.llm.tokenizer, []
    longer = [
        stop
        for stop in vlm.template.stop
        if len(tokenizer(stop, add_special_tokens=False)["input_ids"]) > 1
    ]
    if longer:
        notes.append(f"stop strings: requests must give stop={longer}, which are several ids each")
    return tuple(notes)
