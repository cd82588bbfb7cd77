"""Captions tokenised as the COCO caption scorers tokenise them, without Java.

``tokenize`` gives what pycocoevalcap gets from the Stanford tokenizer: lower case, with a fixed
list of punctuation left out. All captions are read as one text, a line each, because what begins
the next line can decide whether a period belongs to an abbreviation.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import regex

from hdvl.evaluation.metrics.ptb_grammar import RULES

NAME = "hdvl"  # how results name this tokenizer
# The official list names the brackets too, in capitals, while the tokens are in lower case.
LEFT_OUT = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())
LINE_BREAKS = regex.compile(r"[\r\n\v\f\x85\u2028\u2029]")
# Characters that the Java scanner, which reads 16-bit units, does not take for letters.
NO_LETTER = regex.compile(r"[\U00010000-\U0010FFFF]|(?![\u0300-\u0ECD])\p{M}")
STAND_IN = "\ue000"
SIMPLE_WORD = regex.compile(r"[A-Za-z]+(?=[ \n]|$)")
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


def tokens_of(text: str) -> Iterator[tuple[int, str]]:
    """The tokens of ``text`` with where each begins."""
    shadow = NO_LETTER.sub(STAND_IN, text)
    place = 0
    while place < len(text):
        word = SIMPLE_WORD.match(shadow, place)
        if word and word[0].lower() not in SPLIT_WORDS:
            yield place, word[0]
            place = word.end()
            continue
        found = scanner().match(shadow, place)
        if found is None:  # a character that is part of no token
            place += 1
            continue
        name = str(found.lastgroup)
        kind, end = RULES[int(name[1:])].name, found.end(name)
        piece = text[place:end]
        if kind in {"cut2", "cut3", "acronym", "ending"}:
            token, read = cut_token(kind, piece)
            yield place, token
            place += read
            continue
        if kind not in {"skip", "line"}:
            yield place, WRITERS[kind](piece)
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
