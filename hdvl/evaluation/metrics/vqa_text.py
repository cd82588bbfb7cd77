"""Answer normalisation of VQA v2, of the M4C evaluator (TextVQA) and of VLMEvalKit.

Errors of the official code are kept. The period rule of VQA v2, which should keep the points of decimal
numbers, removes the first 32 periods that are not followed by a digit. A comma between two digits
anywhere in an answer changes the treatment of its other punctuation. Contractions are looked up in lower
case, so that entries of the table with capital letters never apply.
"""

import re
from functools import lru_cache

MARKS = ';/[]"{}()=+\\_-><@`,?!'  # in the order in which the official code replaces them
ANY_MARK = re.compile("[" + re.escape(MARKS + ".") + "]")
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
LONE_PERIOD = re.compile(r"(?<!\d)\.(?!\d)")  # VLMEvalKit corrected the pattern
PERIODS_REMOVED = 32  # the official code passes re.UNICODE as the number of substitutions
DIGITS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = {"a", "an", "the"}

# Each contraction is restored from any spelling that lacks one of its apostrophes.
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
RESTORED["somebody'd"] = "somebodyd"  # the only entry that removes an apostrophe


@lru_cache(maxsize=1 << 17)
def clean_space(text: str) -> str:
    """Replace newlines and tabs by spaces, and strip white space at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_marks(text: str, period: re.Pattern[str] = PERIOD) -> str:
    """Remove punctuation, or replace it by a space if it is not adjacent to one."""
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
    """Convert to lower case, write numbers up to ten as digits, drop articles and restore contractions."""
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(RESTORED.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 17)
def normalised(text: str) -> str:
    """Normalise an answer as in VQA v2; ``text`` is the result of ``clean_space``."""
    return plain_words(without_marks(text))


@lru_cache(maxsize=1 << 17)
def normalised_m4c(text: str) -> str:
    """Normalise an answer as the M4C evaluator, which first removes commas and question marks."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return plain_words(without_marks(clean_space(text.strip())))


@lru_cache(maxsize=1 << 17)
def normalised_vlmevalkit(text: str) -> str:
    """Normalise an answer as VLMEvalKit: as in VQA v2, with a corrected period rule."""
    return plain_words(without_marks(clean_space(text), LONE_PERIOD))
