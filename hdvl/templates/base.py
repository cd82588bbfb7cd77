"""The base of all templates: the text that is written for an image, and the tokens that it needs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hdvl.protocols import BoxCodec, Message, Rendered
from hdvl.templates.boxes import Norm1000

IMAGE = "<image>"
"""The placeholder of an image in the text of a message."""


@dataclass(frozen=True, kw_only=True)
class ImageSlots:
    """How images are written into the text.

    An image is written as ``numbering``, ``image_prefix``, ``image_token``, ``image_suffix``. The first
    ``Message.leading`` images, or all of them if the text has no ``<image>``, are put before the text, each
    followed by ``image_separator``.

    Attributes:
        image_token: one id, repeated for each visual token of the image.
        image_prefix: a token such as ``<img>``, or empty.
        image_suffix: a token such as ``</img>``, or empty.
        image_separator: text after an image that is put before the text.
        numbering: text before each image such as ``"Picture {k}: "``, where k counts from 1 over the
            conversation, or empty. It is not written again if the text before ``<image>`` ends with it.
        number_single: whether the only image of a conversation is numbered.
        boxes: the codec of boxes.
    """

    image_token: str = "<|image_pad|>"
    image_prefix: str = ""
    image_suffix: str = ""
    image_separator: str = "\n"
    numbering: str = ""
    number_single: bool = True
    boxes: BoxCodec = field(default_factory=Norm1000)

    def __post_init__(self) -> None:
        if not self.image_token or self.image_token.strip() != self.image_token:
            raise ValueError(
                f"image_token must be text without outer spaces, got {self.image_token!r}"
            )
        if self.numbering and "{k}" not in self.numbering:
            raise ValueError(
                f"numbering must hold {{k}}, such as 'Picture {{k}}: ', got {self.numbering!r}"
            )

    @property
    def image_tokens(self) -> tuple[str, ...]:
        """The tokens that images and boxes need."""
        around = (self.image_prefix, self.image_token, self.image_suffix)
        return (*(token for token in around if token), *self.boxes.tokens)

    def place_images(self, messages: Sequence[Message]) -> list[str]:
        """The text of each message with its images written out.

        Raises:
            ValueError: a message has some ``<image>``, but not one for each of its images, or its text
                contains one of the tokens around an image.
        """
        check_no_tokens((self.image_prefix, self.image_token, self.image_suffix), messages)
        texts, k = list[str](), 0
        several = self.number_single or sum(len(message.images) for message in messages) > 1
        for number, message in enumerate(messages):
            first, *pieces = message.text.split(IMAGE)
            count = len(message.images)
            leading = message.leading if pieces else count
            before = ["", *[self.image_separator] * leading]
            pieces = [*before[:-1], before[-1] + first, *pieces]
            if len(pieces) != count + 1:
                raise ValueError(
                    f"message {number} ({message.role}) must have as many {IMAGE} as images, got "
                    f"{len(pieces) - 1} in its text and {count} images: {message.text[:200]!r}"
                )
            slots = [
                self._slot(
                    k + i + 1, message.numbered and several and not self._ends(piece, k + i + 1)
                )
                for i, piece in enumerate(pieces[:-1])
            ]
            k += count
            texts.append(pieces[0] + "".join(s + p for s, p in zip(slots, pieces[1:], strict=True)))
        return texts

    def _ends(self, text: str, k: int) -> bool:
        """Whether the ``text`` before an image already ends with the image's number."""
        return bool(self.numbering) and text.endswith(self.numbering.replace("{k}", str(k)))

    def _slot(self, k: int, numbered: bool) -> str:
        number = self.numbering.replace("{k}", str(k)) if numbered else ""
        return number + self.image_prefix + self.image_token + self.image_suffix

    def recent(
        self,
        messages: Sequence[Message],
        length: Callable[[Rendered, Sequence[Message]], int],
    ) -> Sequence[Message]:
        """The messages that the model reads before it answers; by default all of them."""
        return messages


def check_no_tokens(tokens: Iterable[str], messages: Sequence[Message]) -> None:
    """Raise a ``ValueError`` for the first text that contains one of ``tokens``; ``<image>`` is allowed."""
    for number, message in enumerate(messages):
        text = message.text.replace(IMAGE, "")
        found = sorted(token for token in tokens if token and token in text)
        if found:
            raise ValueError(
                f"text of message {number} ({message.role}) must not hold control tokens, got "
                f"{found}; remove them or write them differently, and give images as Message.images: "
                f"{message.text[:200]!r}"
            )
