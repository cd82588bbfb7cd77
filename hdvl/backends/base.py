"""The interface of backends: their input and their results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from hdvl.data.questions import Questions, open_questions


@dataclass(frozen=True)
class Job:
    """Rows to answer.

    Attributes:
        cfg: the config of ``hdvl infer``, as plain data.
        overrides: the arguments of the command line.
        questions: the rows.
        remaining: the numbers of the rows that have no answer yet.
    """

    cfg: Mapping[str, Any]
    overrides: Sequence[str]
    questions: Questions
    remaining: Sequence[int]


@dataclass(frozen=True)
class Row:
    """The result for a row.

    Attributes:
        number: the number of the row.
        fields: the fields of the output: the question, and the answer or ``error``.
        error: what is wrong with the row; empty if it has an answer.
        images: its number of images.
        new_tokens: the number of ids of its answer.
    """

    number: int
    fields: dict[str, Any]
    error: str = ""
    images: int = 0
    new_tokens: int = 0

    @classmethod
    def bad(cls, number: int, fields: Mapping[str, Any], error: str) -> "Row":
        """The result for a row that could not be processed."""
        return cls(number, {**fields, "error": error}, error)


@runtime_checkable
class Backend(Protocol):
    """Answers rows.

    * ``runs_model``: whether it loads the model that the config of the command names.
    * ``identity``: what answers depend on besides the config of the command, as plain data. An interrupted
      run can only be continued with an equal identity.
    * ``rows``: yields each row once it is done, in any order, including bad rows. Raises for errors that
      concern all rows.
    * ``hit_rate``: the share of images whose visual tokens were cached; ``None`` if it is unknown.
    """

    runs_model: bool

    def identity(self) -> dict[str, Any]: ...
    def rows(self, job: Job) -> Iterator[Row]: ...
    def hit_rate(self) -> float | None: ...


def questions_of(cfg: Mapping[str, Any]) -> Questions:
    """Open the rows that the config names."""
    return open_questions(
        cfg["inputs"],
        prompt=cfg["prompt"],
        system=cfg["system"],
        image_folder=cfg["image_folder"],
    )
