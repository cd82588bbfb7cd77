"""The layout on disk that the vision-language models of transformers share.

``config.json`` holds ``vision_config`` and ``text_config``. Names of tensors start with ``vision_tower``,
``multi_modal_projector`` and ``language_model``, after prefixes that changed with transformers 5.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hdvl.checkpoints.importers.base import read_json, template_node, tokenizer_node
from hdvl.checkpoints.importers.llm_config import stop_ids
from hdvl.checkpoints.importers.published import Published
from hdvl.checkpoints.nodes import Node, assemble, marked
from hdvl.llms import load_tokenizer
from hdvl.llms.tokenizers import has_tokenizer
from hdvl.protocols import Message
from hdvl.templates import TokenizerTemplate, Unit
from hdvl.templates.node import node_of

PREFIXES = {
    "vision": (
        "model.vision_tower.vision_model.",
        "model.vision_tower.",
        "vision_tower.vision_model.",
        "vision_tower.",
    ),
    "projector": ("model.multi_modal_projector.", "multi_modal_projector."),
    "language": ("model.language_model.", "language_model.model."),
    "head": ("lm_head.", "language_model.lm_head."),
    "newline": ("model.image_newline", "image_newline"),
}
"""Possible prefixes of the names of each part; the longer of two that overlap comes first."""

_PLAIN_HEADS = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt_oss"),
    *("lfm2", "lfm2_moe"),
)
"""Types of language models whose logits are ``lm_head`` of the last hidden state and nothing else."""

_PROBE = "a question that no template writes by itself"


def prefix(published: Published, part: str) -> str:
    """The prefix of the names of ``part`` in these files; the current one if the part is not stored."""
    for candidate in PREFIXES[part]:
        if any(key.startswith(candidate) for key in published.shapes):
            return candidate
    return PREFIXES[part][-1] if part == "vision" else PREFIXES[part][0]


def transformers_config(config: Mapping[str, Any]) -> Any:
    """``config`` as an object of its class in transformers, which fills in the defaults."""
    from transformers import AutoConfig

    plain = {key: value for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(str(config["model_type"]), **plain)


def structure(hf_config: Any) -> dict[str, Any]:
    """The values of a configuration that define the model, without those that all configurations have."""
    from transformers import PreTrainedConfig

    own = set(type(hf_config)().to_dict()) - set(PreTrainedConfig().to_dict())
    plain: dict[str, Any] = json.loads(json.dumps(hf_config.to_dict()))
    return {key: value for key, value in plain.items() if key in own}


def text_numbers(config: Mapping[str, Any], hf_config: Any, published: Published) -> dict[str, Any]:
    """The language model's configuration, with ``tie_word_embeddings`` as the checkpoint has it.

    The default of transformers differs from class to class. A stored head is not tied unless
    ``config`` says so.
    """
    text = hf_config.text_config
    kept = {
        name: getattr(text, name)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if getattr(text, name, None) is not None
    }
    head = prefix(published, "head") + "weight"
    tied = config.get("tie_word_embeddings", head not in published.shapes)
    # Only the text configuration may declare that the head is tied.
    tied = tied or (head not in published.shapes and hf_config.tie_word_embeddings)
    return {"model_type": text.model_type, **structure(text), **kept, "tie_word_embeddings": tied}


def head_faults(text: Any) -> list[str]:
    """A reason why this text configuration is not supported, or an empty list.

    The vision-language classes of transformers compute ``lm_head`` of the last hidden state. Families that
    also scale or cap their logits would therefore give other logits here than in the published class.
    """
    if text.model_type in _PLAIN_HEADS:
        return []
    return [f"text_config.model_type={text.model_type} (only {', '.join(_PLAIN_HEADS)})"]


def counted_from_last(hf_config: Any) -> int:
    """``vision_feature_layer`` as a negative index; -1 is the last block.

    Raises:
        ValueError: there are several layers, or it is not the output of a block.
    """
    layer = hf_config.vision_feature_layer
    depth: int = hf_config.vision_config.num_hidden_layers
    if isinstance(layer, int) and 1 <= layer <= depth:
        return layer - depth - 1
    if isinstance(layer, int) and -depth <= layer <= -1:
        return layer
    raise ValueError(
        f"vision_feature_layer must be the output of one of {depth} blocks, 1..{depth} or "
        f"-{depth}..-1, got {layer}; hdvl does not join several layers"
    )


def processor_settings(folder: Path) -> dict[str, Any]:
    """The settings of the processor itself; empty if the folder has none."""
    file = folder / "processor_config.json"
    return read_json(file) if file.is_file() else {}


def image_settings(folder: Path) -> dict[str, Any]:
    """The settings of the image processor, from either of two files; empty if the folder has none."""
    found = processor_settings(folder).get("image_processor")
    if isinstance(found, dict):
        return found
    file = folder / "preprocessor_config.json"
    return read_json(file) if file.is_file() else {}


def statistics(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``mean`` and ``std``, as far as they are in the settings."""
    names = {"mean": "image_mean", "std": "image_std"}
    return {
        own_name: settings[published_name]
        for own_name, published_name in names.items()
        if published_name in settings
    }


def chat_template(folder: Path, tokenizer: Any) -> str | None:
    """The Jinja chat template of the folder: that of the processor, else that of the tokenizer."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return str(read_json(folder / "chat_template.json")["chat_template"])
    found: str | None = tokenizer.chat_template
    return found


def tokenizer_and_template(
    folder: Path,
    fallback: Node,
    image_id: int,
    placeholder: str = "",
    *,
    adds_tokens: bool = True,
) -> tuple[Node | None, Node]:
    """The nodes of the tokenizer and of the template in ``folder``.

    The tokens around an image are those that the tokenizer names. Boxes are written with tags if the
    tokenizer has them, else as plain numbers.

    Args:
        folder: the published folder.
        fallback: the node of the preset's template.
        image_id: the id of the image token.
        placeholder: what the chat template writes for an image, if that is not the image token.
        adds_tokens: whether the processor lets the tokenizer add tokens such as ``<s>`` to a text.

    Returns:
        The two nodes; None and ``fallback`` if the folder has no tokenizer.

    Raises:
        ValueError: ``image_id`` is no added token of the tokenizer.
    """
    if not has_tokenizer(folder):
        return None, fallback
    tokenizer = load_tokenizer(folder)
    added = tokenizer.added_tokens_decoder
    if image_id not in added:
        raise ValueError(
            f"image_token_id={image_id} must be an added token of the tokenizer in {folder}, which "
            f"are {sorted(added)}; one of the two belongs to another model"
        )
    boxes = known_boxes(tokenizer, fallback["boxes"])
    around = {
        "image_prefix": getattr(tokenizer, "start_image_token", fallback.get("image_prefix", "")),
        "image_suffix": getattr(tokenizer, "end_image_token", fallback.get("image_suffix", "")),
    }
    tokens = {"image_token": str(added[image_id]), **around}
    wrong = [f"{name}={token!r}" for name, token in tokens.items() if not isinstance(token, str)]
    if wrong:
        raise ValueError(f"tokenizer in {folder} must name tokens by text, got {', '.join(wrong)}")
    node = tokenizer_node(folder)
    source = chat_template(folder, tokenizer)
    if source is None:
        return node, Node({**fallback, **tokens, "boxes": marked(node_of(boxes))})
    tokenizer.chat_template = source
    own = _writes_images(tokenizer, placeholder or tokens["image_token"])
    template = TokenizerTemplate.from_tokenizer(
        tokenizer,
        boxes=boxes,
        image_parts=own,
        placeholder=placeholder if own else "",
        parts=not own and _reads_parts_only(tokenizer),
        **tokens,
    )
    return node, template_node(as_processor(template, tokenizer, adds_tokens=adds_tokens))


def known_boxes(tokenizer: Any, preset: Node) -> Any:
    """The box codec of ``preset`` if ``tokenizer`` has its tags, else one that writes plain numbers."""
    boxes = assemble(preset, source="the preset", where="model.template.boxes")
    return boxes if set(boxes.tokens) <= set(tokenizer.get_vocab()) else Unit()


def as_processor(
    template: TokenizerTemplate, tokenizer: Any, *, adds_tokens: bool = True
) -> TokenizerTemplate:
    """A copy of ``template`` that gives the same text and ids as a processor of transformers.

    Such a processor passes the rendered text to ``tokenizer``, which may put a token such as ``<s>`` at
    its beginning. The copy writes this token if ``adds_tokens``, unless the template writes it already.
    If the template writes no control token after an answer, the end marker of the copy is empty.

    Raises:
        ValueError: the tokenizer adds tokens at the end of a text.
    """
    if adds_tokens:
        template = _with_leading_tokens(template, tokenizer)
    messages = [Message("user", "a"), Message("assistant", _PROBE)]
    answered = _text(replace(template, end=""), messages)
    after = answered.rpartition(_PROBE)[2].lstrip()
    ends = not answered or after.startswith(tuple(template.control))
    return template if ends else replace(template, end="")


def _with_leading_tokens(template: TokenizerTemplate, tokenizer: Any) -> TokenizerTemplate:
    """``template`` with the tokens that ``tokenizer`` adds at the beginning of a text."""
    without_special = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    with_special = tokenizer(_PROBE)["input_ids"]
    if with_special[len(with_special) - len(without_special) :] != without_special:
        raise ValueError(
            "tokenizer must add tokens at the beginning of a text only, but it encodes {_PROBE!r} as "
            f"{tokenizer.convert_ids_to_tokens(with_special)}; set add_eos_token=false in "
            "tokenizer_config.json"
        )
    start = "".join(
        tokenizer.convert_ids_to_tokens(with_special[: len(with_special) - len(without_special)])
    )
    written = _text(template, [Message("user", _PROBE)])
    if start and not written.startswith(tokenizer.bos_token or start):
        template = replace(template, start=start)
    return template


def _text(template: TokenizerTemplate, messages: Sequence[Message]) -> str:
    """The text that ``template`` renders; empty if it rejects the conversation."""
    try:
        return template.render(messages).text
    except ValueError:
        return ""


def fill_language(
    node: Node,
    folder: Path,
    config: Mapping[str, Any],
    hf_config: Any,
    published: Published,
    placeholder: str = "",
    *,
    adds_tokens: bool = True,
) -> None:
    """Put the language model, its tokenizer, the template and ``image_token_id`` into ``node``."""
    image_id = hf_config.image_token_id
    tokenizer, node["template"] = tokenizer_and_template(
        folder, node["template"], image_id, placeholder, adds_tokens=adds_tokens
    )
    node["llm"] |= {
        "config": text_numbers(config, hf_config, published),
        "tokenizer": tokenizer,
        "stop_ids": stop_ids(hf_config.text_config.to_dict(), folder),
    }
    node["image_token_id"] = image_id


def _writes_images(tokenizer: Any, image_token: str) -> bool:
    """Whether the template writes ``image_token`` for an image among the parts of a message."""
    parts = [{"type": "image"}, {"type": "text", "text": _PROBE}]
    text = _written(tokenizer, parts)
    return image_token in text and _PROBE in text


def _reads_parts_only(tokenizer: Any) -> bool:
    """Whether the template omits the text of a message that is not a list of parts."""
    return _PROBE not in _written(tokenizer, _PROBE)


def _written(tokenizer: Any, content: Any) -> str:
    """The text that the template renders for one question; empty if it fails."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        )
    except (TemplateError, TypeError):  # a template that adds a text to a list of parts
        return ""


def ignorable_vision(node: Mapping[str, Any], depth: int) -> list[str]:
    """Patterns of tensors that features of ``select_layer`` do not need: later blocks, norms, heads."""
    built = depth + int(node["encoder"]["select_layer"]) + 1
    later = "|".join(str(number) for number in range(built, depth)) or "(?!)"
    tower = r"(model\.)?vision_tower\.(vision_model\.)?"
    return [
        rf"{tower}encoder\.layers?\.({later})\..*",
        rf"{tower}(post_layernorm|head)\..*",
        rf"{tower}embeddings\.position_ids",
        r"(model\.)?language_model\..*\.rotary_emb\.inv_freq",
    ]


def escape_braces(token: str) -> str:
    """``token`` for a tag of a merger, where single braces are placeholders.

    >>> escape_braces("<{row}>")
    '<{{row}}>'
    """
    return token.replace("{", "{{").replace("}", "}}")


def ignorable_head(node: Mapping[str, Any]) -> Sequence[str]:
    """The pattern of a stored head that is tied to the embeddings; empty if it is not tied."""
    tied = node["llm"]["config"]["tie_word_embeddings"]
    return [r"(language_model\.)?lm_head\.weight"] if tied else []
