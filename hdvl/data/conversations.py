"""The protocol of conversations, and synthetic conversations. ``source[i]`` is a list of messages.

It may also be a ``SharedPrefix``: several lists about the same images that do not attend to each other.
"""

import random
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from hdvl.data.synthetic import (
    Document,
    Question,
    SyntheticDocuments,
    compare,
    make_questions,
    transcribe,
)
from hdvl.protocols import BoxCodec, Conversation, Message, SharedPrefix


@runtime_checkable
class Conversations(Protocol):
    """Numbered conversations, each with at least one answer by the assistant."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Conversation: ...


@runtime_checkable
class Named(Protocol):
    """Conversations that provide their own names for errors and reports."""

    def name(self, index: int) -> str: ...


def name_of(conversations: Conversations, index: int) -> str:
    """The name of conversation ``index`` in errors and reports."""
    if isinstance(conversations, Named):
        return conversations.name(index)
    return f"conversation {index}"


class SyntheticConversations:
    """Questions and answers about synthetic documents, with several questions for each image.

    Args:
        documents: the documents, which provide the images.
        boxes: the codec of boxes (that of the template).
        length: the number of conversations.
        turns: the largest number of questions about one image.
        locate_share: the share of questions that ask for a box.
        count_share: the share of pages with a question for a count.
        compare_share: the share of conversations that only compare two documents.
        transcribe_share: the share of conversations that only transcribe a document.
        absent_share: the share of questions that ask for something that is not on the page.
        reworded_share: the share of questions in other words than the document's own.
        independent: whether each question starts a conversation of its own about the image, which is still
            encoded once. In a single conversation no field is asked for twice, so a model may learn to infer
            answers from the earlier ones instead of reading the image. A model for dialogues needs training
            on turns as well.
    """

    def __init__(
        self,
        *,
        documents: SyntheticDocuments,
        boxes: BoxCodec,
        length: int = 100_000,
        turns: int = 8,
        locate_share: float = 0.3,
        count_share: float = 0.05,
        compare_share: float = 0.0,
        transcribe_share: float = 0.0,
        absent_share: float = 0.0,
        reworded_share: float = 0.0,
        independent: bool = False,
    ) -> None:
        shares = {
            "locate": locate_share,
            "count": count_share,
            "compare": compare_share,
            "transcribe": transcribe_share,
            "absent": absent_share,
            "reworded": reworded_share,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name}_share must be in 0..1, got {share}")
        if length < 1 or turns < 1:
            raise ValueError(f"length and turns must be at least 1, got {length} and {turns}")
        self.documents, self.boxes = documents, boxes
        self.length, self.turns = length, turns
        self.locate_share, self.count_share = locate_share, count_share
        self.compare_share, self.transcribe_share = compare_share, transcribe_share
        self.absent_share, self.reworded_share = absent_share, reworded_share
        self.independent = independent

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Message] | SharedPrefix:
        """Conversation number ``index``, which depends only on the seed of the documents and the index."""
        if not 0 <= index < self.length:
            raise IndexError(f"conversation {index} is not in 0..{self.length - 1}")
        rng = random.Random(f"ask/{self.documents.seed}/{index}")
        document = self.documents[index]
        if rng.random() < self.compare_share:
            # A second image that is in no other conversation.
            other = self.documents[self.length + index]
            return _chat([compare(document, other)], document, other)
        if rng.random() < self.transcribe_share:
            return _chat([transcribe(document)], document)
        questions = make_questions(
            document,
            rng,
            self.boxes,
            turns=self.turns,
            locate_share=self.locate_share,
            count_share=self.count_share,
            absent_share=self.absent_share,
            reworded_share=self.reworded_share,
        )
        if self.independent and len(questions) > 1:
            return SharedPrefix(tuple(_chat([question], document) for question in questions))
        return _chat(questions, document)


def _chat(questions: Sequence[Question], *documents: Document) -> list[Message]:
    """The questions and answers as turns; the images are in the first one."""
    messages: list[Message] = []
    for number, question in enumerate(questions):
        images = tuple(document.image for document in documents) if number == 0 else ()
        messages.append(Message("user", question.text, images))
        messages.append(Message("assistant", question.answer))
    return messages
