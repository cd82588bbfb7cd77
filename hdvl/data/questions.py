"""Questions for a model: the images of a folder or pattern, and the rows of JSON and parquet files."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from PIL import Image

from hdvl.data.readers.base import RowConversations
from hdvl.data.readers.hf import ParquetConversations
from hdvl.data.readers.llava import LlavaConversations
from hdvl.data.rows import SKIPPABLE, RowError, printable
from hdvl.messages import is_given
from hdvl.processor import Processor, Sample
from hdvl.protocols import Message

PROMPTS = ("prompt", "question")
"""Fields of a row that may hold its question."""

IMAGES = ("image", "images")
CONVERSATIONS = ("conversations", "messages", "texts")


class Questions(RowConversations):
    """Conversations that end with a question, one for each row of a source.

    Attributes:
        prompt: the question of rows that have none of their own.
        system: the system message of rows without one; ``None`` for the template's.
    """

    prompt: str | None = None
    system: str | None = None

    @abstractmethod
    def identity(self) -> str:
        """A text that differs if the rows of the source have changed."""

    def messages(self, place: int) -> list[Message]:
        """The conversation of row ``place``, without the answer that may be at its end."""
        row = self.row(place)
        if not isinstance(row, Mapping):
            raise RowError("row", f"a row must be a mapping of fields, got {type(row).__name__}")
        if any(is_given(row.get(name)) for name in CONVERSATIONS):
            messages = super().messages(place)
            while messages and messages[-1].role == "assistant":
                messages.pop()
        else:
            messages = [Message("user", self._question(row), self._images(row))]
        if not messages or messages[-1].role != "user":
            raise RowError("conversation", "a row must hold a question of the user")
        system = row["system"] if is_given(row.get("system")) else self.system
        if system is not None and messages[0].role != "system":
            messages.insert(0, Message("system", str(system)))
        return messages

    def describe(self, index: int) -> dict[str, Any]:
        """What an output says about row ``index``: its id, its images if they are paths, its question.

        Raises:
            RowError: the row cannot be read.
        """
        row = self.row(self.place(index))
        if not isinstance(row, Mapping):
            return {}
        found = {"id": row["id"]} if isinstance(row.get("id"), str | int) else {}
        paths = [path for value in self._listed(row) if (path := _path_of(value)) is not None]
        if paths:
            found["images"] = paths
        question = next((row[name] for name in PROMPTS if is_given(row.get(name))), None)
        if question is not None:
            found["prompt"] = question
        return found

    def _question(self, row: Mapping[str, Any]) -> str:
        question = next((row[name] for name in PROMPTS if is_given(row.get(name))), self.prompt)
        if not isinstance(question, str) or not question:
            raise RowError(
                "row",
                f"a row must have a question, as text in {' or '.join(PROMPTS)}, got {question!r:.200}; "
                "or give prompt=... for all rows",
            )
        return question

    def _listed(self, row: Mapping[str, Any]) -> list[Any]:
        value: Any = next((row[name] for name in IMAGES if is_given(row.get(name))), [])
        return list(value) if isinstance(value, list | tuple) else [value]

    def _images(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self.image(value) for value in self._listed(row))


def _path_of(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("path")
    short = isinstance(value, str) and len(value) <= 4096 and not value.startswith("data:")
    return str(value) if short else None


class ImageQuestions(Questions):
    """One question about each image file.

    Args:
        files: the image files.
        label: what errors call the source.
    """

    def __init__(self, files: Sequence[str], *, label: str) -> None:
        self.files = list(files)
        super().__init__(label=label)

    def count(self) -> int:
        """The number of images."""
        return len(self.files)

    def row(self, place: int) -> Any:
        """The row of image number ``place``."""
        return {"image": self.files[place]}

    def name(self, index: int) -> str:
        """The image file."""
        return self.files[self.place(index)]

    def identity(self) -> str:
        """A hash of the file names."""
        return _hash("\n".join(self.files).encode("utf-8", "surrogateescape"))


class JsonQuestions(Questions, LlavaConversations):
    """Rows of a JSON or JSONL file."""

    def identity(self) -> str:
        """A hash of the file."""
        with self.rows.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class ParquetQuestions(Questions, ParquetConversations):
    """Rows of a parquet file, or of several."""

    def identity(self) -> str:
        """A hash of the number of rows and of the sizes of the files."""
        sizes = [os.path.getsize(file) for file in sorted(glob(self.label))]
        return _hash(repr((self.count(), sizes)).encode())


def open_questions(
    inputs: str,
    *,
    prompt: str | None = None,
    system: str | None = None,
    image_folder: str | None = None,
) -> Questions:
    """Open the rows that ``inputs`` names.

    Args:
        inputs: a folder of images (searched at any depth), a pattern such as ``scans/*.png``, or a JSON,
            JSONL or parquet file. Rows of a file have ``prompt`` (or ``question``) and ``image`` or
            ``images``, or a conversation as training data have it.
        prompt: the question of rows that have none of their own.
        system: the system message of rows that have none of their own.
        image_folder: where the paths of images in a file start; ``None`` for the folder of the file.

    Raises:
        ValueError: there is no such file or folder, or no image in it; or images have no question.
    """
    questions = _open(inputs, image_folder)
    if isinstance(questions, ImageQuestions) and not prompt:
        raise ValueError(
            'prompt must be given, such as prompt="What is the total?": inputs are images alone'
        )
    questions.prompt, questions.system = prompt, system
    return questions


def _open(inputs: str, image_folder: str | None) -> Questions:
    path = Path(inputs)
    if path.is_dir():
        found = sorted(str(file) for file in path.rglob("*") if _is_image(file))
        return _some(found, inputs, "holds no images")
    suffix = path.suffix.lower()
    folder = image_folder or str(path.parent)
    if suffix == ".parquet":
        return ParquetQuestions(path=inputs, image_folder=folder)
    if has_magic(inputs) and not path.is_file():
        found = sorted(name for name in glob(inputs, recursive=True) if os.path.isfile(name))
        return _some(found, inputs, "matches no file")
    if not path.is_file():
        raise ValueError(
            f"inputs must be a folder, a pattern, or a JSON, JSONL or parquet file, got {inputs!r}, "
            "which does not exist"
        )
    if suffix in (".json", ".jsonl", ".ndjson"):
        return JsonQuestions(path=inputs, image_folder=folder)
    if _is_image(path):
        return ImageQuestions([inputs], label=inputs)
    raise ValueError(
        f"inputs must end in .json, .jsonl or .parquet, or be an image, a folder or a pattern, got "
        f"{inputs!r}"
    )


def _some(files: list[str], inputs: str, fault: str) -> ImageQuestions:
    if not files:
        raise ValueError(f"inputs={inputs!r} {fault}")
    return ImageQuestions(files, label=inputs)


def _is_image(file: Path) -> bool:
    return (
        not file.name.startswith(".")
        and Image.registered_extensions().get(file.suffix.lower()) in Image.OPEN
        and file.is_file()
    )


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """A row that is ready for generation, or the reason why it is not.

    Attributes:
        number: the number of the row.
        fields: what an output says about the row besides its answer.
        messages: the conversation; empty if the row is bad.
        sample: its ids and pixels; ``None`` if the row is bad.
        error: what is wrong with the row; empty if it is good.
    """

    number: int
    fields: dict[str, Any]
    messages: tuple[Message, ...] = ()
    sample: Sample | None = None
    error: str = ""


class PreparedQuestions:
    """``prepared[i]`` reads row ``i``: its images are decoded and cut, its text is tokenised.

    Args:
        questions: the rows.
        processor: the preprocessing of the model.
    """

    def __init__(self, questions: Questions, processor: Processor) -> None:
        self.questions, self.processor = questions, processor

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, number: int) -> Prepared:
        fields: dict[str, Any] = {}
        try:
            fields = self.questions.describe(number)
            messages = tuple(self.questions[number])
            sample = self.processor(messages, add_generation_prompt=True)
        except SKIPPABLE as error:
            name, reason = self.questions.name(number), str(error)
            error_text = reason if name in reason else f"{name}: {reason}"
            return Prepared(number, fields, error=printable(" ".join(error_text.split())))
        return Prepared(number, fields, messages, sample)
