"""Questions as a protocol words them."""

import string
from collections.abc import Sequence

from hdvl.evaluation.samples import Sample

_FORMATTER = string.Formatter()


def prompt_of(pieces: str | Sequence[str], sample: Sample, option: str = "{letter}. {text}") -> str:
    """The prompt for a sample.

    Args:
        pieces: the prompt with the fields ``{question}``, ``{hint}``, ``{options}`` and those of
            ``sample.extra``, or a list of pieces of it. A piece with an empty field is left out. An empty
            hint is "N/A" in ``{hint_or_na}``; ``{question_capitalized}`` has one capital letter, the first.
        sample: the question.
        option: one line of ``{options}``, with the fields ``{letter}`` and ``{text}``.

    Raises:
        ValueError: a piece names a field that the question does not have.
    """
    options = (option.format(letter=key, text=text) for key, text in sample.options.items())
    fields = {
        **{key: str(value) for key, value in sample.extra.items() if isinstance(value, str | int)},
        "question": sample.question,
        "question_capitalized": sample.question.capitalize(),
        "hint": sample.hint,
        "hint_or_na": sample.hint or "N/A",
        "options": "\n".join(options),
    }
    if isinstance(pieces, str):
        return _filled(pieces, fields)
    kept = [piece for piece in pieces if all(fields.get(name, "?") for name in _names(piece))]
    return "".join(_filled(piece, fields) for piece in kept)


def _names(piece: str) -> list[str]:
    return [name for _, name, _, _ in _FORMATTER.parse(piece) if name]


def _filled(piece: str, fields: dict[str, str]) -> str:
    try:
        return piece.format_map(fields)
    except KeyError as error:
        raise ValueError(
            f"prompt must use the fields {', '.join(fields)}, got {{{error.args[0]}}}; change prompt"
        ) from None
