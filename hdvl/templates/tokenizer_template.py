"""The chat template of a tokenizer, and the spans of the answers in its output."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvl.gguf import find_gguf, read_gguf_tokenizer
from hdvl.protocols import Message, Rendered
from hdvl.sequences import one_or_several
from hdvl.templates.base import IMAGE, ImageSlots, check_no_tokens
from hdvl.templates.layouts import moved
from hdvl.templates.spans import Spans, Turns, check_marked, find_answers, widen_to_prompts

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, kw_only=True)
class TokenizerTemplate(ImageSlots):
    """A tokenizer's Jinja chat template. The spans of the answers are found by rendering it with marks.

    If the template has ``{% generation %}`` blocks, these are the spans. Otherwise the conversation is
    rendered twice, the second time with marks around each answer. If the second output without the marks
    equals the first, the answers are between the marks; if not, an error is raised.

    The span of an answer starts at the end of its generation prompt, if there is only white space between,
    and includes the end marker, which is the control token after the answer. Reasoning before ``</think>``
    is included if the template writes it unchanged.

    Attributes:
        chat_template: Jinja source.
        variables: variables of the template besides the messages, such as ``bos_token``.
        control: the special tokens of the tokenizer.
        markers: control tokens of the template that are added to a tokenizer without them.
        end: the end marker of templates that write no control token after an answer; ``""`` for none.
        system: the system turn for conversations without one; empty leaves it to the template.
        supervise_end: whether the end marker is supervised.
        parts: pass each message as a list with one text part, for templates of vision-language models that
            read nothing else.
        image_parts: pass each message as a list of its images and texts, in order, for templates that write
            the image token themselves or depend on the first part of a message. ``image_separator`` is then
            not used, while ``image_prefix`` and ``image_suffix`` are put around the image token.
        placeholder: with ``image_parts``, what the template writes for an image if it is not the image
            token.
        start: control tokens before the output of the template, such as ``<s>`` if the tokenizer adds it to
            each text. They are tokenised separately.
    """

    chat_template: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    control: Sequence[str] = ()
    markers: Sequence[str] = ()
    end: str | None = None
    system: str = ""
    supervise_end: bool = True
    parts: bool = False
    image_parts: bool = False
    placeholder: str = ""
    start: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_parts and self.numbering:
            raise ValueError(
                "image_parts=true leaves the text before an image to the chat template, got "
                f"numbering={self.numbering!r}; write it into the chat template"
            )
        if self.placeholder and not self.image_parts:
            raise ValueError(
                "placeholder needs a chat template that writes images itself, got "
                f"placeholder={self.placeholder!r} with image_parts=false; set image_parts=true"
            )
        if self.image_parts:
            object.__setattr__(self, "image_separator", "")
        object.__setattr__(self, "control", one_or_several(self.control, "control"))
        object.__setattr__(self, "markers", one_or_several(self.markers, "markers"))

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> "TokenizerTemplate":
        """The template of ``tokenizer``. ``options`` are fields; ``variables`` are added to its own."""
        if not tokenizer.chat_template:
            raise ValueError(
                "tokenizer must have a chat template, got none; choose template=chatml or another"
            )
        special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        variables = {**tokenizer.special_tokens_map, **options.pop("variables", {})}
        return cls(
            chat_template=tokenizer.get_chat_template(),
            variables=variables,
            control=sorted({*special, *tokenizer.all_special_tokens}),
            **options,
        )

    @classmethod
    def from_pretrained(cls, path: str, **options: Any) -> "TokenizerTemplate":
        """The template of the tokenizer in a local folder or GGUF file, or under a hub name."""
        from transformers import AutoTokenizer

        file = find_gguf(path)
        if file is not None:
            return cls.from_tokenizer(read_gguf_tokenizer(file), **options)
        return cls.from_tokenizer(
            AutoTokenizer.from_pretrained(path, trust_remote_code=False), **options
        )

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every token that must be one id. The tokenizer that the template was read from has them all."""
        return tuple(dict.fromkeys((*self.markers, *self.image_tokens)))

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that end an answer: the end marker and the end-of-sequence token."""
        text = self.render([Message("user", "a"), Message("assistant", "b")]).text
        end = self._end(text, text.rindex("b") + 1).strip()
        return tuple(dict.fromkeys(s for s in (end, self.variables.get("eos_token")) if s))

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered:
        """Render the conversation, and find the spans of the answers.

        Raises:
            ValueError: the template rejects the conversation, or the spans cannot be determined.
        """
        check_no_tokens((self.placeholder,) if self.placeholder != IMAGE else (), messages)
        texts = self.place_images(messages)
        turns = [{"role": m.role, "content": t} for m, t in zip(messages, texts, strict=True)]
        if self.system and turns and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.system})
        text, marked = self._write(turns, add_generation_prompt)
        answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        if marked is not None:
            spans = check_marked(text, marked, answers)
        else:
            spans = find_answers(lambda t: self._write(t, add_generation_prompt)[0], turns, text)
        spans = widen_to_prompts(lambda t: self._write(t, True)[0], turns, text, spans)
        ends = [self._end(text, stop) for _, stop in spans]
        shift = len(self.start)
        return Rendered(
            text=self.start + text,
            spans=tuple(
                (shift + start, shift + stop + len(end) * self.supervise_end)
                for (start, stop), end in zip(spans, ends, strict=True)
            ),
            opening=shift,
        )

    def _end(self, text: str, position: int) -> str:
        """The end marker at ``position``, with the white space before it."""
        if self.end is not None:
            found = self.end if text.startswith(self.end, position) else None
        else:
            control = sorted({*self.control, *self.markers}, key=len, reverse=True)
            tokens = "|".join(map(re.escape, control))
            match = re.compile(rf"\s*(?:{tokens})").match(text, position) if tokens else None
            found = match[0] if match else None
        if found is None:
            expected = "a control token of the tokenizer" if self.end is None else repr(self.end)
            raise ValueError(
                f"an answer must be followed by its end marker, {expected}, got "
                f"{text[position : position + 40]!r}; set template.end to the end marker"
            )
        return found

    def _write(self, turns: Turns, prompt: bool) -> tuple[str, Spans | None]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        marks = _GENERATION.search(self.chat_template) is not None
        try:
            texts, spans = render_jinja_template(
                conversations=[self._messages(turns)],
                chat_template=self.chat_template,
                return_assistant_tokens_mask=marks,
                add_generation_prompt=prompt,
                **self.variables,
            )
        except TemplateError as error:
            raise ValueError(f"the chat template rejects the conversation: {error}") from error
        return self._with_images(texts[0], spans[0] if marks else None)

    def _with_images(self, text: str, spans: Spans | None) -> tuple[str, Spans | None]:
        """``text`` with the placeholders of the chat template replaced by images; spans are moved."""
        if not self.image_parts:
            return text, spans
        written = self.placeholder or self.image_token
        slot = self.image_prefix + self.image_token + self.image_suffix
        places = [match.start() for match in re.finditer(re.escape(written), text)]
        grown = [len(slot) - len(written)] * len(places)
        found = None if spans is None else list(moved(spans, places, grown))
        return text.replace(written, slot), found

    def _slot(self, k: int, numbered: bool) -> str:
        return self.image_token if self.image_parts else super()._slot(k, numbered)

    def _messages(self, turns: Turns) -> list[dict[str, Any]]:
        if self.image_parts:
            return [{**turn, "content": self._split(turn["content"])} for turn in turns]
        if not self.parts:
            return [dict(turn) for turn in turns]
        return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]

    def _split(self, content: str) -> list[dict[str, str]]:
        """Split a message into parts: an image for each image token, and the texts between them."""
        first, *rest = content.split(self.image_token)
        parts = [{"type": "text", "text": first}] if first or not rest else []
        for text in rest:
            parts += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
        return parts
