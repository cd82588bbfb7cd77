"""Answer normalisation of VQA v2, of the M4C evaluator (TextVQA) and of VLMEvalKit.

The quirks of the official code are kept. The period rule of VQA v2 is meant to spare decimals and
instead drops every period that no digit follows, and only the first 32 of them; a comma between
two digits anywhere in an answer changes how all its other marks are treated; capitals are lowered
before the contractions are looked up, so those of the table that hold capitals never apply.
"""

import re
from functools import lru_cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'  # in the order in which the official code replaces them
ANY_MARK = re.compile("[" + re.escape(MARKS + ".") + "]")
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
LONE_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")  # VLMEvalKit mended the pattern
PERIODS_REMOVED = 32  # the official code passes re.UNICODE where the count of substitutions belongs
DIGITS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = {"a", "an", "the"}

# Each contraction is found by any spelling that lacks one of its apostrophes.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()


def spellings(contraction: str) -> list[str]:
    """The contraction with one apostrophe left out, for each of its apostrophes."""
    places = [place for place, letter in enumerate(contraction) if letter == "'"]
    return [contraction[:place] + contraction[place + 1 :] for place in places]


RESTORED = {wrong: right for right in CONTRACTIONS for wrong in spellings(right)}
RESTORED["somebody'd"] = "somebodyd"  # the one entry that takes an apostrophe away


def clean_space(text: str) -> str:
    """Newlines and tabs become spaces; the ends are stripped."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_marks(text: str, period: re.Pattern[str] = PERIOD) -> str:
    """Punctuation removed, or replaced by a space where it stands between two letters."""
    if not ANY_MARK.search(text):
        return text
    number = COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in MARKS:
        if mark in text:
            beside_space = f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if number or beside_space else " ")
    return period.sub("", result, count=PERIODS_REMOVED)


def plain_words(text: str) -> str:
    """Lower case, numbers up to ten as digits, articles left out, contractions restored."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(RESTORED.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 17)
def normalised(text: str) -> str:
    """An answer as VQA v2 compares it; ``text`` has passed ``clean_space``."""
    return plain_words(without_marks(text))


@lru_cache(maxsize=1 << 17)
def normalised_m4c(text: str) -> str:
    """An answer as the M4C evaluator compares it: commas and question marks go first."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return plain_words(without_marks(clean_space(text.strip())))


@lru_cache(maxsize=1 << 17)
def normalised_vlmevalkit(text: str) -> str:
    """An answer as VLMEvalKit compares it: as VQA v2, with the period rule mended."""
    return plain_words(without_marks(clean_space(text), LONE_PERIOD))
