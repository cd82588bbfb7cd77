"""Translates a template of hdvl to the Jinja chat template of a processor of transformers.

The content of a message may be text, or a list of parts of type ``image`` and ``text``.
"""

import json
import re
from typing import Any

from hdvl.protocols import Template
from hdvl.templates import TokenizerTemplate
from hdvl.templates.turns import TurnTemplate

_PARTS = """\
{%- set all = namespace(messages=[], k=0, count=0) -%}
{%- for message in messages if message['content'] is not string -%}
  {%- for part in message['content'] if part['type'] == 'image' -%}
    {%- set all.count = all.count + 1 -%}
  {%- endfor -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- set one = namespace(text='', said=false) -%}
  {%- if message['content'] is string -%}
    {%- set one.text = message['content'] -%}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' -%}
        {%- set all.k = all.k + 1 -%}
        {%- set one.text = one.text + SLOT -%}
        {%- if not one.said -%}{%- set one.text = one.text + SEPARATOR -%}{%- endif -%}
      {%- elif part['type'] == 'text' -%}
        {%- set one.text = one.text + part['text'] -%}
        {%- set one.said = true -%}
      {%- else -%}
        {{- raise_exception('parts must be of type image or text, got ' + part['type']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set all.messages = all.messages + [{'role': message['role'], 'content': CONTENT}] -%}
{%- endfor -%}
"""
_SYSTEM = """\
{%- if all.messages and all.messages[0]['role'] != 'system' -%}
  {%- set all.messages = [{'role': 'system', 'content': TEXT}] + all.messages -%}
{%- endif -%}
"""
_TURNS = """\
{{- START -}}
{%- for message in all.messages -%}
  {%- set content = message['content'] -%}
  {%- if message['role'] == 'user' -%}
    {{- USER_PREFIX + content + USER_END + SEPARATOR -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- ASSISTANT_PREFIX + content + ASSISTANT_END + SEPARATOR -}}
  {%- elif message['role'] == 'system' -%}
    {%- if content -%}{{- SYSTEM_PREFIX + content + SYSTEM_END + SEPARATOR -}}{%- endif -%}
  {%- else -%}
    {{- raise_exception('role must be system, user or assistant, got ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ASSISTANT_PREFIX -}}{%- endif -%}
"""


def chat_template(template: Template, *, wraps: bool) -> str:
    """The Jinja source of ``template``.

    Args:
        template: the template.
        wraps: whether the processor itself writes the tokens around an image.

    Raises:
        ValueError: the class of the template, or one of its options, is not supported.
    """
    if not isinstance(template, TurnTemplate | TokenizerTemplate):
        raise ValueError(
            f"template must be of fixed turns or a tokenizer's, got {type(template).__name__}"
        )
    if isinstance(template, TokenizerTemplate) and template.image_parts:
        around = () if wraps else (template.image_prefix, template.image_suffix)
        if any((template.placeholder, *around)):
            raise ValueError(
                "template.image_parts=true must write images as the processor reads them, got "
                f"placeholder={template.placeholder!r}, image_prefix={template.image_prefix!r} and "
                f"image_suffix={template.image_suffix!r}"
            )
        head = "{%- set all = namespace(messages=messages) -%}\n"  # it reads lists of parts itself
    else:
        head = _parts(template, wraps)
    if template.system:
        head += _filled(_SYSTEM, {"TEXT": _inner(template, _literal(template.system))})
    if isinstance(template, TokenizerTemplate):
        known = {
            "bos_token",
            "eos_token",
            "unk_token",
            "pad_token",
            "sep_token",
            "cls_token",
            "mask_token",
        }
        variables = {key: value for key, value in template.variables.items() if key not in known}
        sets = "".join(
            f"{{%- set {key} = {_literal(value)} -%}}\n" for key, value in variables.items()
        )
        return f"{head}{sets}{{%- set messages = all.messages -%}}\n{template.chat_template}"
    if template.window is not None:
        raise ValueError(
            "template.window must be null for an export, because a chat template cannot drop old turns"
        )
    names = (
        *("start", "system_prefix", "system_end", "user_prefix", "user_end"),
        *("assistant_prefix", "assistant_end", "separator"),
    )
    return head + _filled(_TURNS, {n.upper(): _literal(getattr(template, n)) for n in names})


def _parts(template: Any, wraps: bool) -> str:
    token = template.image_token
    slot = token if wraps else template.image_prefix + token + template.image_suffix
    before, number, after = template.numbering.partition("{k}")
    written = f"{_literal(before)} + all.k|string + {_literal(after)}"
    written = f"('' if one.text.endswith({written}) else {written})"
    if not template.number_single:
        written = f"({written} if all.count > 1 else '')"
    pieces = [written] if number else []
    text = {
        "SLOT": " + ".join([*pieces, _literal(slot)]),
        "SEPARATOR": _literal(template.image_separator),
        "CONTENT": _inner(template, "one.text"),
    }
    return _filled(_PARTS, text)


def _inner(template: Any, text: str) -> str:
    """The content of a message in the form that the inner template reads."""
    parts = isinstance(template, TokenizerTemplate) and (template.parts or template.image_parts)
    return f"[{{'type': 'text', 'text': {text}}}]" if parts else text


def _filled(source: str, values: dict[str, str]) -> str:
    """``source`` with names in capitals replaced, in one pass because values may contain such names."""
    return re.sub(r"\b[A-Z]+(?:_[A-Z]+)*\b", lambda match: values[match[0]], source)


def _literal(value: Any) -> str:
    """A Jinja literal."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return json.dumps(value)
