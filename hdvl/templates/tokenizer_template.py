"""The chat template of a tokenizer, and the spans of the answers in the text that it writes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvl.protocols import Message, Rendered
from hdvl.sequences import one_or_several
from hdvl.templates.base import IMAGE, ImageSlots, refuse_tokens
from hdvl.templates.layouts import moved
from hdvl.templates.spans import Spans, Turns, check_marked, find_answers, widen_to_prompts

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, kw_only=True)
class TokenizerTemplate(ImageSlots):
    """A tokenizer's Jinja chat template. The spans of the answers are found by rendering, not by counting.

    Where the template marks ``{% generation %}``, the marks are the spans. Elsewhere the
    conversation is written twice, the second time with two marks around each answer: if taking the
    marks out of the second gives the first, the answers stand where the marks stood. If that cannot
    be shown, rendering is an error.

    An answer's span begins where its generation prompt ends, if only white space lies between, and
    includes the end marker: the control token that follows the answer. Reasoning before
    ``</think>`` belongs to the span where the template keeps it as it was written.

    Attributes:
        chat_template: Jinja source.
        variables: what the template reads beside the messages: ``bos_token``, ``enable_thinking``.
        control: the tokenizer's special tokens.
        markers: control tokens that a tokenizer which did not bring the template may lack, and gets.
        end: the end marker, where no control token follows an answer; ``""`` for none.
        system: the system turn where a conversation brings none; empty leaves it to the template.
        supervise_end: train the end marker too.
        parts: hand each message over as a list of one text part, for templates of vision-language
            models that read nothing else.
        image_parts: hand each message over as a list of its images and texts, in their order, for
            templates that write the image token themselves, perhaps with more around it, or that go
            by what a message begins with. ``image_separator`` is then the template's affair, while
            ``image_prefix`` and ``image_suffix`` are put around what it writes.
        placeholder: of ``image_parts``: what the template writes for an image, where that is not the
            image token itself.
        start: control tokens in front of everything that the template writes, such as ``<s>`` where
            the tokenizer adds it to each text by itself. They are tokenised on their own.
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
                "image_parts=true leaves to the chat template what stands before an image, got "
                f"numbering={self.numbering!r}; write it into the chat template"
            )
        if self.placeholder and not self.image_parts:
            raise ValueError(
                "placeholder is what a chat template writes for an image by itself, got "
                f"placeholder={self.placeholder!r} with image_parts=false; set image_parts=true"
            )
        if self.image_parts:
            object.__setattr__(self, "image_separator", "")
        object.__setattr__(self, "control", one_or_several(self.control, "control"))
        object.__setattr__(self, "markers", one_or_several(self.markers, "markers"))

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, **options: Any) -> "TokenizerTemplate":
        """The template of ``tokenizer``; ``options`` are fields, ``variables`` add to its own."""
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
        """The template of the tokenizer in a local folder or of a hub name."""
        from transformers import AutoTokenizer

        return cls.from_tokenizer(
            AutoTokenizer.from_pretrained(path, trust_remote_code=False), **options
        )

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every token that must be one id; a tokenizer that brought the template has them."""
        return tuple(dict.fromkeys((*self.markers, *self.image_tokens)))

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer: the end marker, and the end of sequence."""
        text = self.render([Message("user", "a"), Message("assistant", "b")]).text
        end = self._end(text, text.rindex("b") + 1).strip()
        return tuple(dict.fromkeys(s for s in (end, self.variables.get("eos_token")) if s))

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered:
        """The conversation as the template writes it, and the spans of the answers.

        Raises:
            ValueError: the template refuses the conversation, or the spans cannot be proven.
        """
        refuse_tokens((self.placeholder,) if self.placeholder != IMAGE else (), messages)
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
                f"{text[position : position + 40]!r}; say what it is with template.end"
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
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        return self._with_images(texts[0], spans[0] if marks else None)

    def _with_images(self, text: str, spans: Spans | None) -> tuple[str, Spans | None]:
        """``text`` with its images written out, where the chat template placed them; spans move along."""
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
        """A message as parts: the texts between image tokens, and an image for each token."""
        first, *rest = content.split(self.image_token)
        parts = [{"type": "text", "text": first}] if first or not rest else []
        for text in rest:
            parts += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
        return parts
