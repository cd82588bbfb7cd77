"""The tokenisation of captions of the COCO caption scorers, without Java.

``tokenize`` returns tokens in the form that pycocoevalcap gets from the Stanford tokenizer: lower case,
without a fixed list of punctuation marks. The rules are those of ``ptb_grammar``. They are derived from
observed outputs; inputs of other kinds may be tokenised differently. Java's tokenizer is used when it is
present (see ``caption_tokens``).
"""

from collections.abc import Sequence

import regex

from hdvl.evaluation.metrics.ptb_grammar import (
    BRACKETS,
    OPENING,
    OPENING_CAPITALS,
    Following,
    read_chunk,
)

NAME = "hdvl"  # the name of this tokenizer in results
# The official list names the brackets too, in capitals, while the tokens are in lower case.
REMOVED_TOKENS = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())
LINE_BREAKS = regex.compile(r"[\r\n\v\f\x85\u2028\u2029]")
# Characters that separate tokens without being one: spaces, controls, and all beyond the basic plane.
BLANK = regex.compile(r"[\s\p{Z}\p{C}\U00010000-\U0010FFFF\uFFFD]+")
ENTITIES = regex.compile(r"(?i)&(amp|quot|apos|nbsp);")
ENTITY_CHARACTERS = {"amp": "&", "quot": '"', "apos": "'", "nbsp": " "}
# A number with a fraction, and a telephone number, is one token although it contains a space.
JOINED = r"(?:\d+ \d+/\d+|\d{3}-\d{3} \d{4}|\(\d{3}\) ?\d{3}-\d{4})(?![\w/])"
BEFORE_JOINED = r"(?:[#$\xa3\u20ac]|[Nn]o\.)"
CHUNK = regex.compile(
    rf"(?<!\S){BEFORE_JOINED}(?={JOINED})|(?<![^\s#$\xa3\u20ac.])(?P<joined>{JOINED})|\S+"
)


def one_line(caption: str) -> str:
    """Return the caption without line breaks, which would assign all later captions to other images."""
    return str(LINE_BREAKS.sub(" ", caption))


def chunks_of(caption: str) -> list[tuple[str, bool]]:
    """Return the parts of the caption between spaces, and whether each is a token that contains a space."""
    text = ENTITIES.sub(
        lambda found: ENTITY_CHARACTERS[found[1].lower()], caption.replace("\xad", "")
    )
    text = BLANK.sub(" ", text)
    return [(found[0], found["joined"] is not None) for found in CHUNK.finditer(text)]


def kind_of_start(chunk: str) -> Following:
    """Return the kind of a chunk, on which the meaning of a period before it depends."""
    if chunk[:1].isdigit():
        return "number"
    return "opening" if chunk in OPENING or chunk in OPENING_CAPITALS else "other"


def joined_token(chunk: str) -> str:
    """Return a token that contains a space, with a no-break space in its place."""
    return "".join(BRACKETS.get(char, char) for char in chunk).replace(" ", "\xa0")


def tokenize(captions: Sequence[str]) -> list[str]:
    """Return the tokens of each caption, joined by single spaces, without punctuation.

    Whether a period belongs to an abbreviation can depend on the beginning of the next caption, because the
    official scorer tokenises all captions as one text.
    """
    # From the last chunk to the first one, because a chunk is read by the kind of the one after it.
    lines: list[str] = []
    following: Following = "other"
    for caption in reversed(captions):
        found: list[str] = []
        for chunk, joined in reversed(chunks_of(caption)):
            tokens = (joined_token(chunk),) if joined else read_chunk(chunk, following)
            found += reversed(tokens)
            following = kind_of_start(chunk)
        lowered = [token.lower() for token in reversed(found)]
        lines.append(" ".join(token for token in lowered if token not in REMOVED_TOKENS))
    return lines[::-1]
