"""Kinds of tokens of captions, following the conventions of the Penn Treebank.

A caption is split at spaces into chunks, and ``read_chunk`` splits a chunk into tokens from left to right.
At each position the readers of ``KINDS`` are tried in order. The first one that matches returns the tokens
and the position after them. A reader is a function; ``pattern_reader`` makes one from a regular expression.

Most of the rules decide which periods, apostrophes and hyphens belong to a word: "Mr." and "U.S." are one
token, "dog." is two; "don't" becomes "do n't", "ma'am" stays; "well-known" is one token.

The rules are derived from observed outputs of the Stanford tokenizer 3.4.1, which the COCO caption scorers
use, and from published descriptions of the Treebank's conventions. Inputs of other kinds may be tokenised
differently; Java's tokenizer is used when it is present (see ``caption_tokens``). Opening and closing
quotation marks are not distinguished, because the caption scorers leave both out.
"""

from collections.abc import Callable
from functools import lru_cache
from html.entities import name2codepoint
from itertools import product
from typing import Literal

import regex

# The kind of the next chunk: it begins with a digit, is a word of OPENING, or is anything else.
Following = Literal["number", "opening", "other"]
Found = tuple[list[str], int] | None
TokenReader = Callable[[str, int, Following], Found]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Abbreviations that keep their period, in either case. Single letters keep it too, see ``keeps_period``.
TITLES = words(
    "mr mrs ms dr prof rev hon gen col capt cmdr lt sgt maj adm gov sen rep pres atty supt insp det "
    "messrs mme mlle sr jr st ste esq asst"
)
BUSINESS = words(
    "assoc dept univ inc ltd co corp cos bros plc mfg intl natl pty pte cie assn bancorp ind"
)
PLACES = words(
    "mt ft bldg ave blvd rd ct sq ala ariz calif colo conn fla ga ill kan kans ky md mich minn mo "
    "mont neb nev okla penn tenn vt va wis wisc wyo dak"
)
CALENDAR = words("jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri")
TERMS = words("etc vs al cf est tel ext ph seq adj adv elec treas")
ABBREVIATIONS = TITLES | BUSINESS | PLACES | CALENDAR | TERMS
# States whose abbreviation is a word as well: only with a capital letter.
CAPITALISED = words("Ark Del La Mass Miss Ore Pa Tex Wash")
NUMBERED = words("no nos fig figs pp op ca art")  # abbreviations in front of a number only
ACRONYMS = words("ph.d")  # with parts of more than one letter
# After "C." these words begin a sentence, so that its period does not belong to the letter.
OPENING = words(
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many "
    "More Now Once One Other Our She Since So Some Such That The Their Then There These They This "
    "Those We What When While Yet You"
)
BEHIND_PERIOD = frozenset(",;:")  # a period in front of these belongs to the word before it
OPENING_CAPITALS = frozenset(word.upper() for word in OPENING)

# Words that are written as two tokens, with the length of the first one.
TWO_WORDS = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3}
WITHIN = words("ma'am cap'n c'mon e'er ne'er ev'ry s'mores hawai'i hallowe'en")
SMILEYS = frozenset(map("".join, product(":;=", ("", "-"), ")([]DPp")))
FIXED_TOKENS = sorted(
    {*SMILEYS, ">:(", ">:)", ":'(", ":')", "^_^", "-_-", "C++", "C#", "c++", "c#"}, key=len
)[::-1]

BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
FRACTIONS = {"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
CURRENCIES = {"\xa2": "cents", "\xa3": "#", "\u20ac": "$"}
QUOTES = dict.fromkeys("\"'`\u2018\u2019\u201c\u201d\xab\xbb\u2039\u203a", "''")
SYMBOLS = {**BRACKETS, **FRACTIONS, **CURRENCIES, **QUOTES}

# Pieces of the patterns below.
# The names that HTML gives to the accented letters of Latin-1, as in "&eacute;t&eacute;".
ACCENTED = "|".join(
    f"&{name};"
    for name, code in name2codepoint.items()
    if 0xC0 <= code <= 0xFF and chr(code).isalpha()
)
PART = (
    rf"(?:[\p{{L}}\p{{Nd}}]\p{{M}}*|{ACCENTED})+"  # letters and digits without a mark between them
)
NAME = r"\p{L}[\p{L}\p{M}\p{Nd}]*"  # the same, beginning with a letter
END = r"(?![\p{L}\p{Nd}])"  # no letter or digit follows

WORD = regex.compile(rf"{PART}(?:[-_/]{PART})*")  # well-known, and/or
HYPHENED = regex.compile(rf"-{PART}")  # -style, as after the period of U.S.-style
COMPOUND = regex.compile(rf"(?:-{PART})*")  # the rest of a compound after a period
DOTTED = regex.compile(rf"{NAME}(?:[.!?]{NAME})+")  # U.S, photo.jpg, end.The
CONTRACTED_NOT = regex.compile(rf"(?i)(\p{{L}}*)n['\u2019]t{END}")  # don't, with "do" as its group
# French and Italian articles as in d'art and qu'il, but not the contractions I'd and I'll; ol', y'all
PREFIXED = regex.compile(
    rf"(?i)(?:[dlno]|qu)['\u2019](?!(?:s|m|d|t|ll|re|ve){END})\p{{L}}+|ol['\u2019]{END}|y['\u2019](?=all|know)"
)
# The punctuation after an address belongs to it, except for some marks that differ by the kind of address.
SITE = regex.compile(
    r"(?i:https?)://[^\s<>\"()]*[^\s<>\"().,!?}]|www\.[\p{L}\p{Nd}.-]*[\p{L}\p{Nd}-]"
)
MAIL = regex.compile(r"[\p{L}\p{Nd}][\w.+-]*@[\p{L}\p{Nd}](?:[^\s<>|(){}\"]*[^\s<>|(){}\".])?")
# an apostrophe between vowels, as in Hawai'ian
BETWEEN_VOWELS = regex.compile(r"(?i)\p{L}+[aeiou]['\u2019][aeiou]\p{L}*(?!['\u2019\p{L}])")
INNER_APOSTROPHE = regex.compile(rf"\p{{L}}+['\u2019]\p{{L}}+{END}")


def pattern_reader(pattern: str, write: Callable[[str], str] = str) -> TokenReader:
    """Return a reader of one token that matches ``pattern``, which ``write`` converts to its final form."""
    compiled = regex.compile(pattern)

    def read(text: str, place: int, following: Following) -> Found:
        found = compiled.match(text, place)
        return ([write(found[0])], found.end()) if found else None

    return read


def always(token: str) -> Callable[[str], str]:
    return lambda text: token


def read_address(text: str, place: int, following: Following) -> Found:
    """A web or mail address."""
    found = SITE.match(text, place) or MAIL.match(text, place)
    return ([found[0]], found.end()) if found else None


def read_fixed(text: str, place: int, following: Following) -> Found:
    """A smiley, or another name made of symbols."""
    for name in FIXED_TOKENS:
        end = place + len(name)
        joined = text[end : end + 1].isalnum() and (name in SMILEYS or name[-1].isalpha())
        if text.startswith(name, place) and not joined:
            return ["".join(BRACKETS[c] if c in "()" else c for c in name)], end
    return None


def keeps_period(word: str, following: Following) -> bool:
    """Whether the period after ``word`` belongs to it."""
    lower = word.lower()
    if len(word) == 1 and word.isalpha():
        return following != "opening"
    if lower in NUMBERED:
        return following == "number"
    return lower in ABBREVIATIONS or word in CAPITALISED


def with_period(text: str, place: int, end: int) -> Found:
    """An abbreviation that ends with the period at ``end``, with the rest of its compound."""
    rest = COMPOUND.match(text, end + 1)
    end = rest.end() if rest else end + 1
    return [text[place:end]], end


def read_dotted(text: str, place: int, following: Following) -> Found:
    """An acronym, a site, a file, or words without a space after the period between them."""
    found = DOTTED.match(text, place)
    if found is None:
        return None
    token, end = found[0], found.end()
    letters = all(len(part) == 1 for part in token.split("."))
    abbreviated = letters or token.lower() in ACRONYMS or text[end + 1 : end + 2] in BEHIND_PERIOD
    if abbreviated and text.startswith(".", end):
        return with_period(text, place, end)
    rest = COMPOUND.match(text, end)
    end = rest.end() if rest else end
    return [text[place:end]], end


def read_apostrophe(text: str, place: int, following: Following) -> Found:
    """Words with an apostrophe that is no mark of a contraction, and those in n't."""
    found = CONTRACTED_NOT.match(text, place)
    if found:
        return [token for token in (found[1], "n't") if token], found.end()
    found = PREFIXED.match(text, place)
    if found is None:
        found = BETWEEN_VOWELS.match(text, place)
    if found is None:
        found = INNER_APOSTROPHE.match(text, place)
        if found is None or found[0].lower().replace("\u2019", "'") not in WITHIN:
            return None
    return [found[0]], found.end()


def read_word(text: str, place: int, following: Following) -> Found:
    """Letters and digits, joined by single hyphens, slashes or underscores."""
    found = WORD.match(text, place)
    if found is None:
        return None
    word, end = found[0], found.end()
    if text.startswith(".", end) and (
        text[end + 1 : end + 2] in BEHIND_PERIOD or HYPHENED.match(text, end + 1)
    ):
        return with_period(text, place, end)
    first = TWO_WORDS.get(word.lower())
    owned = text[end : end + 1] in {"'", "\u2019"} and text[end + 1 : end + 2].isalpha()
    if first and not owned:
        return [word[:first], word[first:]], end
    if text.startswith(".", end):
        rest = text[end + 1 :]
        after = following if not rest else ("number" if rest[0].isdigit() else "other")
        if keeps_period(word, after):
            return with_period(text, place, end)
    return [word], end


def read_symbol(text: str, place: int, following: Following) -> Found:
    """Any other character as a token of one character; a combining mark without its letter is dropped."""
    char = text[place]
    return ([] if regex.match(r"\p{M}", char) else [SYMBOLS.get(char, char)]), place + 1


KINDS: tuple[TokenReader, ...] = (
    pattern_reader(r"</?[A-Za-z][^<>\s]*>"),  # a tag of HTML
    pattern_reader("&lt;", always("<")),
    pattern_reader("&gt;", always(">")),
    read_address,
    pattern_reader(r"#[\p{L}]+|@[\p{L}]\w*"),  # a hashtag, a name of a user
    read_fixed,
    pattern_reader(r"\.{3,}|\.{2}(?!\p{Nd})|\u2026", always("...")),
    pattern_reader(r"-{5,}"),  # a line of hyphens; up to four are a dash
    pattern_reader(r"-{2,4}|[\u2013\u2014]|&[mn]dash;", always("--")),
    pattern_reader(r"[!?]{2,}|_{2,}|\*{2,}|##+|@@+|<<|>>"),  # !!!, ?!, ****
    pattern_reader(r"(?i)'t(?=(?:is|was)(?:n't)?(?![\p{L}\p{Nd}]))"),  # 'tis
    pattern_reader(
        rf"(?i)(?<!')(?:'n'|['\u2019](?:\p{{Nd}}{{2}}s|em|till?|cause){END})"
    ),  # '80s, 'em
    pattern_reader(r"['\u2019]\p{Nd}{2}$"),  # '05
    pattern_reader(
        rf"(?i)(?<!')['\u2019](?:s|m|d|ll|re|ve|n){END}", lambda text: "'" + text[1:]
    ),  # what follows a noun or pronoun
    pattern_reader(r"[A-Z]{1,2}\$"),  # US$
    pattern_reader(rf"[A-Z]+&[A-Z]+(?:-{PART})*"),  # AT&T
    pattern_reader(  # 1,000 5:30 3.5-inch
        r"[-+]?[.,:]?\p{Nd}+(?:(?:[.:]|,[-+]?)\p{Nd}+)+(?:-[\p{L}\p{Nd}]+)*"
    ),
    pattern_reader(r"[-+]?[.,:]\p{Nd}+|[-+]\p{Nd}+"),  # .5 and -3
    read_dotted,
    read_apostrophe,
    read_word,
    read_symbol,
)


@lru_cache(maxsize=1 << 16)
def read_chunk(chunk: str, following: Following) -> tuple[str, ...]:
    """Split text without spaces into tokens, without changing its case."""
    tokens: list[str] = []
    place = 0
    while place < len(chunk):
        found = next(filter(None, (read(chunk, place, following) for read in KINDS)))
        tokens += found[0]
        place = found[1]
    return tuple(tokens)
