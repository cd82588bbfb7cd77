"""The tokenisation of captions of the COCO caption scorers, without Java.

``tokenize`` returns the tokens that pycocoevalcap gets from the Stanford tokenizer: lower case, without a
fixed list of punctuation marks. All captions are read as one text with a line for each, because the beginning
of the next line can decide whether a period belongs to an abbreviation.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache

import regex

from hdvl.evaluation.metrics.ptb_grammar import (
    BEFORE_NUMBER,
    CLOSING_ABBREVIATION,
    MARKS,
    OPENING_ABBREVIATION,
    RULES,
)

NAME = "hdvl"  # how results name this tokenizer
# The official list names the brackets too, in capitals, while the tokens are in lower case.
LEFT_OUT = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())
LINE_BREAKS = regex.compile(r"[\r\n\v\f\x85\u2028\u2029]")
# Characters that the Java scanner, which reads 16-bit units, does not take for letters.
NO_LETTER = regex.compile(rf"[\U00010000-\U0010FFFF]|(?![{MARKS}])\p{{M}}")
STAND_IN = "\ue000"
# Frequent tokens, at positions where no rule of the grammar has a longer match.
END = r"(?:[ \n]|\Z)"
COMMON = re.compile(
    rf"(?P<skip>[ \n]+|[.,](?=\n|\Z| [A-Za-z]))"
    rf"|(?P<word>[A-Za-z]+(?:-[A-Za-z]+)*)"
    rf"(?:(?={END})|(?=[,;:?!]{END})|(?=(?P<period>\.){END})|(?P<owner>'s)(?={END}))"
    rf"|(?P<number>[0-9]+)(?=\n|\Z| [A-Za-z])"
)
SPLIT_WORDS = frozenset("cannot gonna gotta lemme gimme wanna".split())
BRACKETS = str.maketrans(
    {"(": "-LRB-", ")": "-RRB-", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-"}
)
ROUND = str.maketrans({"(": "-LRB-", ")": "-RRB-"})
FRACTIONS = {"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
CURRENCIES = {"\xa2": "cents", "\xa3": "#", "\x80": "$", "\xa4": "$", "\u20a0": "$", "\u20ac": "$"}
CURLY = [("[\x91\u2018\u201b\u2039]", "`"), ("[\x92\u2019\u203a]", "'")]
CURLY += [("[\x93\u201c\xab]", "``"), ("[\x94\u201d\xbb]", "''")]


def straight(text: str, mark: str) -> str:
    """Quotation marks in LaTeX's ASCII form; straight ones become ``mark``, doubled for double ones."""
    text = regex.sub('"|&quot;', mark * 2, regex.sub("&apos;|'", mark, text))
    for curly, plain in CURLY:
        text = regex.sub(curly, plain, text)
    return text


def without_soft_hyphens(text: str) -> str:
    return text.replace("\xad", "") or "-"


def bracketed(text: str) -> str:
    """A bracket by itself by its name; in a smiley only the round ones."""
    return text.translate(BRACKETS if len(text) == 1 else ROUND)


# How the text of each kind of token is written; the kinds that are cut or skipped are not here.
WRITERS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "soft": without_soft_hyphens,
    "spaced": lambda text: text.replace(" ", "\xa0"),
    "dash": lambda text: "--",
    "amp": lambda text: regex.sub("(?i:&amp;)", "&", text),
    "fraction": lambda text: FRACTIONS.get(text, text),
    "currency": lambda text: CURRENCIES.get(text, text),
    "brackets": bracketed,
    "phone": lambda text: text.replace(" ", "\xa0").translate(ROUND),
    "less": lambda text: "<",
    "greater": lambda text: ">",
    "hyphens": lambda text: "--" if len(text) in {3, 4} else text,
    "dots": lambda text: "...",
    "open": lambda text: straight(text, "`"),
    "close": lambda text: straight(text, "'"),
}


@cache
def scanner() -> regex.Pattern[str]:
    """All rules as one pattern that finds the longest match, compiled on first use."""
    rules = [f"(?P<r{n}>{rule.form})(?:{rule.follows})" for n, rule in enumerate(RULES)]
    return regex.compile("|".join(rules), regex.POSIX)


def cut_token(kind: str, text: str) -> tuple[str, int]:
    """The token and how many characters of ``text`` are read, for kinds that give some back."""
    if kind in {"cut2", "cut3"}:
        kept = len(text) - int(kind[-1])
        return text[:kept], kept
    if kind == "acronym" and len(text) == 2:  # "I." at the end of a sentence is no abbreviation
        return text[:1], 1
    return text, len(text) - 1  # the period ends the abbreviation and the sentence


@lru_cache(maxsize=1 << 16)
def takes_period(word: str) -> bool:
    """Whether a period after ``word`` may belong to it."""
    forms = f"{CLOSING_ABBREVIATION}|{OPENING_ABBREVIATION}\\.|{BEFORE_NUMBER}|(?i:pt[ey]|co)\\."
    return regex.fullmatch(forms, f"{word}.") is not None


def common_tokens(text: str, place: int) -> tuple[list[str], int] | None:
    """The tokens of a common form at ``place`` and where it ends; None where the rules must decide."""
    found = COMMON.match(text, place)
    if found is None:
        return None
    word = found["word"]
    if word is None:
        return ([] if found["skip"] else [found["number"]]), found.end()
    if word.lower() in SPLIT_WORDS or (found["period"] and takes_period(word)):
        return None
    if found["owner"]:
        return None if len(word) == 1 else ([word, "'s"], found.end())
    return [word], found.end()


def ruled_token(text: str, shadow: str, place: int) -> tuple[str | None, int]:
    """The token at ``place`` by the grammar, None if it is left out, and where the next one begins."""
    found = scanner().match(shadow, place)
    if found is None:  # a character that is part of no token
        return None, place + 1
    name = str(found.lastgroup)
    kind, end = RULES[int(name[1:])].name, found.end(name)
    piece = text[place:end]
    if kind in {"cut2", "cut3", "acronym", "ending"}:
        token, read = cut_token(kind, piece)
        return token, place + read
    return (None if kind in {"skip", "line"} else WRITERS[kind](piece)), end


def tokens_of(text: str) -> Iterator[tuple[int, str]]:
    """The tokens of ``text`` with where each begins."""
    shadow = NO_LETTER.sub(STAND_IN, text)
    place = 0
    while place < len(text):
        common = common_tokens(shadow, place)
        if common is not None:
            for token in common[0]:
                yield place, token
            place = common[1]
            continue
        one, end = ruled_token(text, shadow, place)
        if one is not None:
            yield place, one
        place = end


def one_line(caption: str) -> str:
    """The caption without line breaks, which would shift all later captions to other images."""
    return str(LINE_BREAKS.sub(" ", caption))


def tokenize(captions: Sequence[str]) -> list[str]:
    """Each caption as its tokens with single spaces between them, without punctuation."""
    lines = [one_line(caption) for caption in captions]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found: list[list[str]] = [[] for _ in lines]
    number = 0
    for place, token in tokens_of("\n".join(lines)):
        while place >= starts[number + 1]:
            number += 1
        lowered = token.lower()
        if lowered not in LEFT_OUT:
            found[number].append(lowered)
    return [" ".join(tokens) for tokens in found]
