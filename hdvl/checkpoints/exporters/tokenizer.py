"""Makes a copy of the model's tokenizer with the attributes that a processor of transformers reads."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hdvl.llms import save_tokenizer
from hdvl.model import VLM
from hdvl.protocols import Message


def for_processor(
    vlm: VLM, temporary_in: Path, *, wraps: bool, tokens: Mapping[str, str] | None = None
) -> Any:
    """A copy of the model's tokenizer, made through temporary files in the folder ``temporary_in``.

    The copy has the image token and ``tokens`` as attributes, and with ``wraps`` also the tokens around an
    image. InternVL's processor needs a token for videos too, which it replaces in every text. The vocabulary
    is not extended for it: a special token that no conversation contains is used.
    """
    from transformers import AutoTokenizer

    template: Any = vlm.template
    names = {"image_token": template.image_token, **(tokens or {})}
    if wraps:
        names = {
            "start_image_token": template.image_prefix,
            "end_image_token": template.image_suffix,
            "context_image_token": template.image_token,
            "video_token": unused_special_token(vlm),
        }
    with tempfile.TemporaryDirectory(dir=temporary_in) as folder:
        save_tokenizer(vlm.llm.tokenizer, folder)
        return AutoTokenizer.from_pretrained(
            folder, extra_special_tokens=names, trust_remote_code=False
        )


def unused_special_token(vlm: VLM) -> str:
    """A special token of the tokenizer that no conversation in the template's format contains.

    Raises:
        ValueError: there is no such token.
    """
    tokenizer, template = vlm.llm.tokenizer, vlm.template
    talk = [Message("system", "a"), Message("user", "a"), Message("assistant", "a")]
    text = template.render([*talk, Message("user", "a")], add_generation_prompt=True).text
    used = {*template.special_tokens, *template.stop, template.image_token}
    for token in (tokenizer.pad_token, tokenizer.unk_token, *tokenizer.all_special_tokens):
        if token is not None and token not in text and token not in used:
            return str(token)
    raise ValueError(
        "this class of transformers needs a special token for videos, and all those of the tokenizer are "
        "in use; add one, such as <video>, with a row in the embeddings"
    )
