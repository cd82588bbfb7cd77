"""What the vision-language models of transformers have in common on disk.

``config.json`` holds ``vision_config`` and ``text_config``; tensors lie under ``vision_tower``,
``multi_modal_projector`` and ``language_model``, spelled one way before transformers 5 and another since.
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
"""What each part's names start with: the more special spelling first."""

_PLAIN_HEADS = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt_oss"),
    *("lfm2", "lfm2_moe"),
)
"""Language models whose logits are ``lm_head`` of the last state, which is all that these layouts take."""

_PROBE = "a question that no template writes by itself"


def prefix(published: Published, part: str) -> str:
    """What the names of ``part`` start with in these files; today's spelling if it is not there."""
    for candidate in PREFIXES[part]:
        if any(key.startswith(candidate) for key in published.shapes):
            return candidate
    return PREFIXES[part][-1] if part == "vision" else PREFIXES[part][0]


def resolved(config: Mapping[str, Any]) -> Any:
    """``config`` as transformers' own class, which knows the defaults that the file leaves out."""
    from transformers import AutoConfig

    plain = {key: value for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(str(config["model_type"]), **plain)


def structure(described: Any) -> dict[str, Any]:
    """The numbers of a configuration that say what the model is, without those of every model."""
    from transformers import PreTrainedConfig

    usual = set(type(described)().to_dict()) - set(PreTrainedConfig().to_dict())
    plain: dict[str, Any] = json.loads(json.dumps(described.to_dict()))
    return {key: value for key, value in plain.items() if key in usual}


def text_numbers(config: Mapping[str, Any], described: Any, published: Published) -> dict[str, Any]:
    """The language model's configuration, tied to the head as the checkpoint is.

    transformers ties by a default that differs from class to class; a stored head is one of its
    own unless the file says otherwise.
    """
    told = described.text_config
    kept = {
        name: getattr(told, name)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        if getattr(told, name, None) is not None
    }
    head = prefix(published, "head") + "weight"
    tied = config.get("tie_word_embeddings", head not in published.shapes)
    # The text configuration may say alone that there is no head.
    tied = tied or (head not in published.shapes and described.tie_word_embeddings)
    return {"model_type": told.model_type, **structure(told), **kept, "tie_word_embeddings": tied}


def unlike_a_plain_head(text: Any) -> list[str]:
    """Why logits are not those of a language model with this configuration; maybe nothing.

    The vision-language classes of transformers put ``lm_head`` behind the last state and nothing else,
    so that what a family does more to its logits is lost in them.
    """
    if text.model_type in _PLAIN_HEADS:
        return []
    return [f"text_config.model_type={text.model_type} (only {', '.join(_PLAIN_HEADS)})"]


def counted_from_last(described: Any) -> int:
    """``vision_feature_layer`` counted from the last block, which is -1.

    Raises:
        ValueError: several layers, or one that is not the output of a block.
    """
    layer = described.vision_feature_layer
    depth: int = described.vision_config.num_hidden_layers
    if isinstance(layer, int) and 1 <= layer <= depth:
        return layer - depth - 1
    if isinstance(layer, int) and -depth <= layer <= -1:
        return layer
    raise ValueError(
        f"vision_feature_layer must be the output of one of {depth} blocks, 1..{depth} or "
        f"-{depth}..-1, got {layer}; hdvl does not join several layers"
    )


def processor_settings(folder: Path) -> dict[str, Any]:
    """The settings of the processor itself; maybe nothing."""
    file = folder / "processor_config.json"
    return read_json(file) if file.is_file() else {}


def image_settings(folder: Path) -> dict[str, Any]:
    """The image processor's settings, from whichever file holds them; maybe nothing."""
    found = processor_settings(folder).get("image_processor")
    if isinstance(found, dict):
        return found
    file = folder / "preprocessor_config.json"
    return read_json(file) if file.is_file() else {}


def statistics(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``mean`` and ``std`` where the settings say them."""
    names = {"mean": "image_mean", "std": "image_std"}
    return {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}


def chat_template(folder: Path, tokenizer: Any) -> str | None:
    """The folder's Jinja chat template, the processor's before the tokenizer's."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return str(read_json(folder / "chat_template.json")["chat_template"])
    found: str | None = tokenizer.chat_template
    return found


def text_side(
    folder: Path,
    fallback: Node,
    image_id: int,
    placeholder: str = "",
    *,
    adds_tokens: bool = True,
) -> tuple[Node | None, Node]:
    """The nodes of the tokenizer and of the template in ``folder``; None and ``fallback`` without.

    The image token is the one with the configured ``image_id``, the tokens around it those that the
    tokenizer names. Boxes are written by tags if the tokenizer knows them, else as plain numbers.
    ``placeholder`` is what the chat template writes for an image, if that is not the image token.
    ``adds_tokens``: whether the processor lets the tokenizer add tokens such as ``<s>`` to a text.

    Raises:
        ValueError: ``image_id`` is no added token: the tokenizer is of another model.
    """
    if not has_tokenizer(folder):
        return None, fallback
    tokenizer = load_tokenizer(folder)
    added = tokenizer.added_tokens_decoder
    if image_id not in added:
        raise ValueError(
            f"image_token_id={image_id} must be an added token of the tokenizer in {folder}, which "
            f"are {sorted(added)}; one of the two is of another model"
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
    """The box codec of ``preset`` if ``tokenizer`` knows its tags, else one that writes plain numbers."""
    boxes = assemble(preset, source="the preset", where="model.template.boxes")
    return boxes if set(boxes.tokens) <= set(tokenizer.get_vocab()) else Unit()


def as_processor(
    template: TokenizerTemplate, tokenizer: Any, *, adds_tokens: bool = True
) -> TokenizerTemplate:
    """``template`` as a processor of transformers uses it, which hands its text to ``tokenizer`` whole.

    A tokenizer that begins each text with a token such as ``<s>`` does so here too, unless the
    template writes that token itself, or the processor has it add none. A template that writes no
    control token after an answer gets an empty end marker.

    Raises:
        ValueError: the tokenizer adds tokens at the end of a text.
    """
    if adds_tokens:
        template = _started(template, tokenizer)
    talk = [Message("user", "a"), Message("assistant", _PROBE)]
    answered = _text(replace(template, end=""), talk)
    after = answered.rpartition(_PROBE)[2].lstrip()
    ends = not answered or after.startswith(tuple(template.control))
    return template if ends else replace(template, end="")


def _started(template: TokenizerTemplate, tokenizer: Any) -> TokenizerTemplate:
    """``template`` behind what ``tokenizer`` adds at the beginning of a text."""
    bare = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_PROBE)["input_ids"]
    if whole[len(whole) - len(bare) :] != bare:
        raise ValueError(
            "tokenizer must add tokens at the beginning of a text alone, it makes "
            f"{tokenizer.convert_ids_to_tokens(whole)} of {_PROBE!r}; set add_eos_token=false in "
            "tokenizer_config.json"
        )
    start = "".join(tokenizer.convert_ids_to_tokens(whole[: len(whole) - len(bare)]))
    written = _text(template, [Message("user", _PROBE)])
    if start and not written.startswith(tokenizer.bos_token or start):
        template = replace(template, start=start)
    return template


def _text(template: TokenizerTemplate, messages: Sequence[Message]) -> str:
    """What ``template`` writes; nothing where it refuses the conversation."""
    try:
        return template.render(messages).text
    except ValueError:
        return ""


def fill_language(
    node: Node,
    folder: Path,
    config: Mapping[str, Any],
    described: Any,
    published: Published,
    placeholder: str = "",
    *,
    adds_tokens: bool = True,
) -> None:
    """Put the language model, its tokenizer and template, and the slot's id into ``node``."""
    image_id = described.image_token_id
    tokenizer, node["template"] = text_side(
        folder, node["template"], image_id, placeholder, adds_tokens=adds_tokens
    )
    node["llm"] |= {
        "config": text_numbers(config, described, published),
        "tokenizer": tokenizer,
        "stop_ids": stop_ids(described.text_config.to_dict(), folder),
    }
    node["image_token_id"] = image_id


def _writes_images(tokenizer: Any, image_token: str) -> bool:
    """Whether the template writes ``image_token`` where a message has an image among its parts."""
    parts = [{"type": "image"}, {"type": "text", "text": _PROBE}]
    text = _written(tokenizer, parts)
    return image_token in text and _PROBE in text


def _reads_parts_only(tokenizer: Any) -> bool:
    """Whether the template loses a message that is text, not a list of parts."""
    return _PROBE not in _written(tokenizer, _PROBE)


def _written(tokenizer: Any, content: Any) -> str:
    """What the template makes of one question; nothing where it fails."""
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        )
    except (TemplateError, TypeError):  # a template that adds a text to a list of parts
        return ""


def ignorable_vision(node: Mapping[str, Any], depth: int) -> list[str]:
    """Patterns of what features of ``select_layer`` do not need: later blocks, norms, heads."""
    built = depth + int(node["encoder"]["select_layer"]) + 1
    later = "|".join(str(number) for number in range(built, depth)) or "(?!)"
    tower = r"(model\.)?vision_tower\.(vision_model\.)?"
    return [
        rf"{tower}encoder\.layers?\.({later})\..*",
        rf"{tower}(post_layernorm|head)\..*",
        rf"{tower}embeddings\.position_ids",
        r"(model\.)?language_model\..*\.rotary_emb\.inv_freq",
    ]


def ignorable_head(node: Mapping[str, Any]) -> Sequence[str]:
    """The pattern of a stored head that is tied to the embeddings, and so says nothing."""
    tied = node["llm"]["config"]["tie_word_embeddings"]
    return [r"(language_model\.)?lm_head\.weight"] if tied else []
