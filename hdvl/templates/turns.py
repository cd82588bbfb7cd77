"""Templates made of fixed strings around each turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from hdvl.protocols import Message, Rendered
from hdvl.templates.base import ImageSlots


@dataclass(frozen=True, kw_only=True)
class TurnTemplate(ImageSlots):
    """Fixed strings around each turn: ``{prefix}{text}{end}{separator}``.

    The model is trained to say an answer's text and its ``end``; ``separator`` only stands between turns.

    Attributes:
        system: text of the system turn where a conversation brings none; empty for no such turn.
        markers: tokens of the template's own, beside those of pictures and boxes.
        supervise_end: whether the end marker is trained too (without it a model never learns to stop).
        stop: strings that end an answer.
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
    markers: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    supervise_end: bool = True

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Every token that must be one id."""
        return tuple(dict.fromkeys((*self.markers, *self.image_tokens)))

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered:
        """The conversation as one string, and the spans of the answers with their end markers.

        Raises:
            ValueError: the turns are not [system], user, assistant, user, ... in this order.
        """
        self._check_order(messages)
        turns = list(zip((m.role for m in messages), self.place_images(messages), strict=True))
        if self.system and turns[0][0] != "system":
            turns.insert(0, ("system", self.system))
        text, spans = self.start, []
        for role, content in turns:
            if role == "system" and not content:
                continue
            prefix, end = self._around(role)
            text += prefix + content
            if role == "assistant":
                said = len(end) if self.supervise_end else 0
                spans.append((len(text) - len(content), len(text) + said))
            text += end + self.separator
        if add_generation_prompt:
            text += self.assistant_prefix
        return Rendered(text=text, spans=tuple(spans))

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
                f"turns must be an optional system, then user and assistant in turn, got {roles}"
            )


@dataclass(frozen=True, kw_only=True)
class ChatML(TurnTemplate):
    """``<|im_start|>role\\n ... <|im_end|>\\n``, as Qwen writes it."""

    system: str = "You are a helpful assistant."
    system_prefix: str = "<|im_start|>system\n"
    system_end: str = "<|im_end|>"
    user_prefix: str = "<|im_start|>user\n"
    user_end: str = "<|im_end|>"
    assistant_prefix: str = "<|im_start|>assistant\n"
    assistant_end: str = "<|im_end|>"
    separator: str = "\n"
    markers: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")
    stop: tuple[str, ...] = ("<|im_end|>",)


@dataclass(frozen=True, kw_only=True)
class Hermes2(ChatML):
    """ChatML without newlines between turns, as InternVL-Chat 1.2 was trained on it."""

    system: str = "Answer the questions."
    separator: str = ""
    image_token: str = "<IMG_CONTEXT>"
    image_prefix: str = "<img>"
    image_suffix: str = "</img>"
