"""Conversations whose last answer is incomplete, to be continued or to compute its likelihood."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hdvl.loss import IGNORED
from hdvl.processor import Processor, Sample
from hdvl.protocols import BoxCodec, Message, Rendered, Template


@dataclass(frozen=True)
class OpenEnded:
    """A template that writes the last message without its end marker."""

    template: Template

    @property
    def image_token(self) -> str:
        """As in the template."""
        return self.template.image_token

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """As in the template."""
        return self.template.special_tokens

    @property
    def stop(self) -> tuple[str, ...]:
        """As in the template."""
        return self.template.stop

    @property
    def boxes(self) -> BoxCodec:
        """As in the template."""
        return self.template.boxes

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> Rendered:
        """The text of a conversation to the last character of its last message.

        Raises:
            ValueError: the last message is not an assistant's, is empty, or is written otherwise.
        """
        if not messages or messages[-1].role != "assistant" or not messages[-1].text:
            raise ValueError(
                "the last message must be an assistant's with some text to continue, got "
                f"{messages[-1].role if messages else 'none'}"
            )
        rendered = self.template.render(messages)
        start, end = rendered.spans[-1]
        place = rendered.text.rfind(messages[-1].text, start, end)
        if place < 0:
            raise ValueError(
                "the last message must be text that the template writes as it is, got "
                f"{messages[-1].text[:80]!r}; leave spaces at its ends out"
            )
        last = place + len(messages[-1].text)
        return replace(
            rendered,
            text=rendered.text[:last],
            spans=(*rendered.spans[:-1], (start, last)),
            literal=tuple((a, min(b, last)) for a, b in rendered.literal if a < last),
        )

    def recent(
        self,
        messages: Sequence[Message],
        length: Callable[[Rendered, Sequence[Message]], int],
    ) -> Sequence[Message]:
        """All messages."""
        return messages


def encode_open(processor: Processor, messages: Sequence[Message]) -> Sample:
    """Return the sample of a conversation whose last message is to be continued."""
    return open_ended(processor, messages)[0]


def open_ended(processor: Processor, messages: Sequence[Message]) -> tuple[Sample, int]:
    """Return the sample of a conversation without the end of its last message, and how many ids that has.

    Raises:
        ValueError: the last message is not an assistant's, is empty, or is written otherwise.
    """
    sample = replace(processor, template=OpenEnded(processor.template))(messages)
    supervised = (sample.labels != IGNORED).tolist()
    count = next((n for n, own in enumerate(reversed(supervised)) if not own), len(supervised))
    return sample, count
