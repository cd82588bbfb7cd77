"""Templates made of fixed strings around each turn."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hdvl.protocols import BoxCodec, Message, Rendered
from hdvl.sequences import one_or_several
from hdvl.templates.base import ImageSlots
from hdvl.templates.boxes import Norm1000, Unit


@dataclass(frozen=True, kw_only=True)
class TurnTemplate(ImageSlots):
    """Fixed strings around each turn: ``{prefix}{text}{end}{separator}``.

    The text of an answer and its end marker are supervised; the separator is not.

    Attributes:
        system: the system turn for conversations without one; empty for none.
        start: text before the conversation, such as a beginning-of-sequence token.
        separator: text after every turn.
        markers: tokens of the template besides those of images and boxes.
        extra_stop: strings besides ``assistant_end`` that end an answer.
        supervise_end: whether the end marker is supervised; without it a model does not learn to stop.
        supervise_markers: whether the first marker of every turn and the text after every turn are
            supervised too, as in Qwen-VL's published fine-tuning.
        control_text: the treatment of control tokens in the text of a message. ``refuse`` raises an error.
            ``letters`` tokenises each text separately, with control tokens as ordinary letters, as in
            Qwen-VL's published chat. The tokens around images raise an error in both cases.
        window: the largest number of ids of the system turn and the answered questions in a prompt. The
            oldest questions are left out; the current question is not counted. None for no limit.
    """

    system: str = ""
    start: str = ""
    system_prefix: str = ""
    system_end: str = ""
    user_prefix: str = ""
    user_end: str = ""
    assistant_prefix: str = ""
    assistant_end: str = ""
    separator: str = ""
    markers: Sequence[str] = ()
    extra_stop: Sequence[str] = ()
    supervise_end: bool = True
    supervise_markers: bool = False
    control_text: Literal["refuse", "letters"] = "refuse"
    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control_text not in ("refuse", "letters"):
            raise ValueError(f"control_text must be refuse or letters, got {self.control_text!r}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 or null, got {self.window}")
        # Configurations give lists, but the values of a frozen dataclass must be hashable.
        object.__setattr__(self, "markers", one_or_several(self.markers, "markers"))
        object.__setattr__(self, "extra_stop", one_or_several(self.extra_stop, "extra_stop"))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every token that must be one id."""
        return tuple(dict.fromkeys((*self.markers, *self.image_tokens)))

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer."""
        ends = (self.assistant_end.strip(), *self.extra_stop)
        return tuple(dict.fromkeys(end for end in ends if end))

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered:
        """Render the conversation as one string, with the spans of the answers and their end markers.

        Raises:
            ValueError: the turns are not [system], user, assistant, user, ... in this order.
        """
        self._check_order(messages)
        turns = list(zip((m.role for m in messages), self.place_images(messages), strict=True))
        if self.system and turns[0][0] != "system":
            turns.insert(0, ("system", self.system))
        return self._write(self.start, turns, self.assistant_prefix * add_generation_prompt)

    def _write(self, text: str, turns: Sequence[tuple[str, str]], last: str = "") -> Rendered:
        spans, literal = list[tuple[int, int]](), list[tuple[int, int]]()
        for role, content in turns:
            if role == "system" and not content:
                continue
            prefix, end = self._around(role)
            first = len(text)
            text += prefix + content + end + self.separator
            spans += self._spans(role, first, prefix, content, end)
            literal += self._literal(first + len(prefix), content)
        return Rendered(text=text + last, spans=tuple(spans), literal=tuple(literal))

    def _literal(self, first: int, content: str) -> list[tuple[int, int]]:
        """The spans of ``content``, which starts at ``first``, between images and tags."""
        if self.control_text == "refuse":
            return []
        tokens = "|".join(map(re.escape, self.image_tokens))
        edges = [edge for match in re.finditer(tokens, content) for edge in match.span()]
        bounds = [first + edge for edge in (0, *edges, len(content))]
        pairs = zip(bounds[::2], bounds[1::2], strict=True)
        return [(start, stop) for start, stop in pairs if start < stop]

    def recent(
        self,
        messages: Sequence[Message],
        length: Callable[[Rendered, Sequence[Message]], int],
    ) -> Sequence[Message]:
        """``messages`` without the oldest answered questions that do not fit into ``window``.

        Questions with their answers are kept from the newest to the oldest, as long as they and the system
        turn have fewer than ``window`` ids in total (as in Qwen-VL's published chat).

        Args:
            messages: the conversation, which ends with a question.
            length: the number of ids of a rendered piece with its messages, including images.
        """
        if self.window is None:
            return messages
        self._check_order(messages)
        head = 1 if messages[0].role == "system" else 0
        system = messages[0].text if head else self.system
        prefix, end = self._around("system")
        literal = tuple(self._literal(len(prefix), system))
        opening = Rendered(text=prefix + system + end, spans=(), literal=literal)
        used = length(opening, ()) if system else 0
        first = len(messages) - 1
        while first > head:
            pair = messages[first - 2 : first]
            turns = zip((m.role for m in pair), self.place_images(pair), strict=True)
            used += length(self._write("", list(turns)), pair)
            if used >= self.window:
                break
            first -= 2
        return [*messages[:head], *messages[first:]]

    def _spans(
        self, role: str, first: int, prefix: str, content: str, end: str
    ) -> list[tuple[int, int]]:
        start = first + len(prefix)
        stop = start + len(content)
        if self.supervise_markers:
            marker = next((m for m in self.markers if prefix.startswith(m)), "")
            begin = start if role == "assistant" else stop
            return [(first, first + len(marker)), (begin, stop + len(end + self.separator))]
        if role != "assistant":
            return []
        return [(start, stop + len(end) * self.supervise_end)]

    def _around(self, role: str) -> tuple[str, str]:
        return {
            "system": (self.system_prefix, self.system_end),
            "user": (self.user_prefix, self.user_end),
            "assistant": (self.assistant_prefix, self.assistant_end),
        }[role]

    def _check_order(self, messages: Sequence[Message]) -> None:
        roles = [message.role for message in messages]
        body = roles[1:] if roles[:1] == ["system"] else roles
        expected = ["assistant" if i % 2 else "user" for i in range(len(body))]
        if not body or body != expected:
            raise ValueError(
                f"turns must be an optional system, then user and assistant alternating, got {roles}"
            )


@dataclass(frozen=True, kw_only=True)
class ChatML(TurnTemplate):
    """``<|im_start|>role\\n ... <|im_end|>\\n``, the format of Qwen.

    With ``numbering="Picture {k}: "``, ``image_prefix="<img>"``, ``image_token="<imgpad>"`` and
    ``image_suffix="</img>"`` it is Qwen-VL-Chat's (Bai et al., 2023, arXiv:2308.12966): see
    conf/template/qwen_vl.yaml.
    """

    system: str = "You are a helpful assistant."
    system_prefix: str = "<|im_start|>system\n"
    system_end: str = "<|im_end|>"
    user_prefix: str = "<|im_start|>user\n"
    user_end: str = "<|im_end|>"
    assistant_prefix: str = "<|im_start|>assistant\n"
    assistant_end: str = "<|im_end|>"
    separator: str = "\n"
    markers: Sequence[str] = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Hermes2(ChatML):
    """ChatML without newlines between the turns, with which InternVL-Chat 1.2 was trained.

    (Chen et al., 2023, "InternVL", arXiv:2312.14238.)
    """

    system: str = "Answer the questions."
    separator: str = ""
    image_token: str = "<IMG_CONTEXT>"
    image_prefix: str = "<img>"
    image_suffix: str = "</img>"
    boxes: BoxCodec = field(default_factory=lambda: Norm1000(form="lists", quads=True))


@dataclass(frozen=True, kw_only=True)
class Xverse(TurnTemplate):
    """``Human: ...\\nAssistant: ...<|endoftext|>``, the format of XVERSE-V's training.

    Its evaluation uses ``system=""``. It was not trained on boxes, which are written as plain text.
    """

    system: str = (
        "你是元象开发的具有图文问答能力的XChat，一旦给定你一张图片，你可以依据图片的内容，"
        "详细地回答我的问题。"
    )
    system_end: str = "\n"
    user_prefix: str = "Human: "
    user_end: str = "\n"
    assistant_prefix: str = "Assistant: "
    assistant_end: str = "<|endoftext|>"
    markers: Sequence[str] = ("<|endoftext|>",)
    image_token: str = "<ImageHere>"
    boxes: BoxCodec = field(default_factory=Unit)


@dataclass(frozen=True, kw_only=True)
class Plain(TurnTemplate):
    """A prompt for a base model: the question, ``user_end``, the answer, and the end-of-text token.

    ``user_prefix="Question: "`` and ``user_end="\\nAnswer: "`` give the usual prompt for short answers. A
    model with another end-of-text token needs another ``assistant_end``, such as ``</s>``.
    """

    user_end: str = "\n"
    assistant_end: str = "<|endoftext|>"
    boxes: BoxCodec = field(default_factory=Unit)
