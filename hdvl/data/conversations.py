"""Where conversations come from. Each source is map-style: ``source[i]`` is a list of messages."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hdvl.data.synthetic import (
    Document,
    Question,
    SyntheticDocuments,
    ask,
    compare,
    transcribe,
)
from hdvl.protocols import BoxCodec, Message


@runtime_checkable
class Conversations(Protocol):
    """Numbered conversations, each with at least one answer by the assistant."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> list[Message]: ...


class SyntheticConversations:
    """Questions and answers about synthetic documents, several turns a picture.

    Args:
        documents: where the pictures come from.
        boxes: how boxes are written (the template's codec).
        length: how many conversations there are.
        turns: most questions about one picture.
        locate_share, count_share: share of such questions, or pages with such a question.
        compare_share, transcribe_share: share of conversations that are of these tasks alone.
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
    ) -> None:
        shares = {
            "locate": locate_share,
            "count": count_share,
            "compare": compare_share,
            "transcribe": transcribe_share,
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

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> list[Message]:
        """Conversation number ``index``; it follows from the documents' seed and the index."""
        if not 0 <= index < self.length:
            raise IndexError(f"conversation {index} is not in 0..{self.length - 1}")
        rng = random.Random(f"ask/{self.documents.seed}/{index}")
        document = self.documents[index]
        if rng.random() < self.compare_share:
            # A second picture that no other conversation shows.
            other = self.documents[self.length + index]
            return _chat([compare(document, other)], document, other)
        if rng.random() < self.transcribe_share:
            return _chat([transcribe(document)], document)
        questions = ask(
            document,
            rng,
            self.boxes,
            turns=self.turns,
            locate_share=self.locate_share,
            count_share=self.count_share,
        )
        return _chat(questions, document)


def _chat(questions: Sequence[Question], *documents: Document) -> list[Message]:
    """The questions and answers as turns; the pictures stand in the first."""
    messages: list[Message] = []
    for number, question in enumerate(questions):
        images = tuple(document.image for document in documents) if number == 0 else ()
        messages.append(Message("user", question.text, images))
        messages.append(Message("assistant", question.answer))
    return messages


_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class LlavaConversations:
    """LLaVA-style data: JSON (an array, or lines) of {id, image, conversations: [{from, value}]}.

    ``image`` is a file name below ``image_folder``, a list of them, or absent. Pictures belong to the
    turn that names them with ``<image>``, and without any such mark to the first user turn.
    """

    def __init__(
        self, *, path: str, image_folder: str = ".", boxes: BoxCodec | None = None
    ) -> None:
        self.path, self.image_folder, self.boxes = Path(path), Path(image_folder), boxes
        if not self.path.is_file():
            raise ValueError(f"path must be a JSON or JSONL file, got {path!r}, which is no file")
        self.rows = _read_rows(self.path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> list[Message]:
        """Conversation number ``index`` with the paths of its pictures."""
        row = self.rows[index]
        try:
            return self._messages(row)
        except (KeyError, TypeError, ValueError) as error:
            name = row.get("id", index) if isinstance(row, dict) else index
            raise ValueError(f"row {index} (id {name}) of {self.path}: {error}") from error

    def _messages(self, row: dict[str, Any]) -> list[Message]:
        listed = row.get("image") or []
        names = [listed] if isinstance(listed, str) else list(listed)
        pictures = [self.image_folder / name for name in names]
        turns = row["conversations"]
        marks = sum(turn["value"].count("<image>") for turn in turns)
        if marks not in (0, len(pictures)):
            raise ValueError(f"{len(pictures)} pictures but {marks} <image> marks")
        messages: list[Message] = []
        for turn in turns:
            if turn["from"] not in _ROLES:
                raise ValueError(f"from must be one of {sorted(_ROLES)}, got {turn['from']!r}")
            role = _ROLES[turn["from"]]
            first_user = role == "user" and not any(item.role == "user" for item in messages)
            count = turn["value"].count("<image>") if marks else len(pictures) * first_user
            own, pictures = pictures[:count], pictures[count:]
            messages.append(Message(role, turn["value"], tuple(own)))  # type: ignore[arg-type]
        return messages


def _read_rows(path: Path) -> Sequence[Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must hold a JSON array or JSON lines: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no conversations")
    return list(rows)
