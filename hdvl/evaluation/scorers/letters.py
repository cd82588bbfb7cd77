"""The rules that read the letter of an option out of an answer, by the names that protocols give them."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from hdvl.evaluation.metrics.mmmu import strip_each
from hdvl.evaluation.metrics.option_inference import can_infer
from hdvl.evaluation.metrics.scienceqa import FAILED, parse_scienceqa

PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    # The official list lacks commas here, so that these are joined in pairs and remove nothing.
    *("The best option isThe correct option is", "Best answer:Best option:"),
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
LMMS_EVAL_STRIPPED = ",.!?;:'\""
LONG = 10  # words; a longer answer without a letter is not read


def exact_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The answer itself if it is a letter of an option, with white space around it at most."""
    return text.strip() if text.strip() in options else None


def scienceqa_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that LLaVA's script reads."""
    index = parse_scienceqa(text, len(options))
    return None if index == FAILED else list(options)[index]


WHOLE_PREFIXES = (
    *PREFIXES[:4],
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)
"""The prefixes as VLMEvalKit and lmms-eval have them."""


def mme_realworld_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that the script of MME-RealWorld reads: the first of A to E, wherever it stands."""
    choices = {letter: f"({letter}) {option}" for letter, option in options.items()}
    return _first_of_a_to_e(text, PREFIXES, choices)


def mme_realworld_letter_lmms_eval(text: str, options: Mapping[str, str]) -> str | None:
    """As :func:`mme_realworld_letter`, without the texts of the options."""
    return _first_of_a_to_e(text, WHOLE_PREFIXES, {letter: f"({letter})" for letter in "ABCDE"})


def mme_realworld_letter_vlmevalkit(text: str, options: Mapping[str, str]) -> str | None:
    """As in lmms-eval, of the text in a tag ``<answer>`` if there is one."""
    tagged = re.search("<answer>(.*?)</answer>", text, re.DOTALL)
    text = tagged[1].strip().upper() if tagged else text
    return mme_realworld_letter_lmms_eval(text, options)


def _first_of_a_to_e(text: str, prefixes: Sequence[str], choices: Mapping[str, str]) -> str | None:
    text = text.strip()
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search("[ABCDE]", text)
    if found:
        return found[0]
    if len(text.split()) > LONG:
        return None
    return next((one for one, choice in choices.items() if text.lower() in choice.lower()), None)


LETTER_PATTERNS = (
    r"^([A-D])\s*[\.)\]]*",
    r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*(?:\.|\)|])",
    r"(?:^|\s)([A-D])(?:\s|$)",
)
"""What lmms-eval looks for in an answer to V*Bench, the first that is found counting."""


def vstar_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter from A to D that lmms-eval reads in an answer to V*Bench, in capitals."""
    said = text.strip().upper()
    for pattern in LETTER_PATTERNS:
        found = re.search(pattern, said)
        if found:
            return found[1]
    letters = re.findall("[A-D]", said)
    return letters[0] if len(letters) == 1 else None


def identical_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The answer itself if it is a letter of an option, without white space (LLaVA's SEED-Bench)."""
    return text if text in options else None


def first_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The first character (InternVL's SEED-Bench)."""
    return text[:1] if text[:1] in options else None


def first_letter_any_case(text: str, options: Mapping[str, str]) -> str | None:
    """The first character after white space, whatever its case (lmms-eval's SEED-Bench)."""
    first = text.strip()[:1].lower()
    return next((letter for letter in options if letter.lower() == first), None)


def leading_letter_or_text(text: str, options: Mapping[str, str]) -> str | None:
    """The first character, or the first option whose text the answer contains (InternVL's MMVP)."""
    text = text.strip()
    if text[:1] in options:
        return text[:1]
    if len(text) < 2:
        return None
    return next((letter for letter, option in options.items() if option in text), None)


def scienceqa_letter_internvl(text: str, options: Mapping[str, str]) -> str | None:
    """As :func:`leading_letter_or_text`, or a letter in brackets at the start."""
    bracketed = re.match(r"\s*\((.)\)", text)
    found = leading_letter_or_text(text, options)
    return bracketed[1] if found is None and bracketed and bracketed[1] in options else found


MMVP_PATTERNS = (
    r"^\s*\(?([AB])\)?\.?\s*$",
    r"^\s*\(?([AB])\)?[\.\s]",
    r"answer\s+is\s+\(?([AB])\)?",
    r"option\s+\(?([AB])\)?",
    r"\(?([AB])\)?(?:\s|$)",
    r"^([AB])",
)
"""What lmms-eval looks for in an answer to MMVP, in any case, the first that is found counting."""


def mmvp_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter A or B that lmms-eval reads in an answer to MMVP, also at the end of a word."""
    text = text.strip()
    for pattern in MMVP_PATTERNS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return found[1].upper()
    return None


def scienceqa_letter_lmms_eval(text: str, options: Mapping[str, str]) -> str | None:
    """The whole answer in any case, or the capital letter before a period at its start."""
    text = text.strip()
    if len(text) > 1 and text[0].isupper() and text[1] == ".":
        text = text[0]
    return next((letter for letter in options if letter.lower() == text.lower()), None)


def ai2d_letter(text: str, options: Mapping[str, str]) -> str | None:
    """As :func:`scienceqa_letter_lmms_eval`, but without punctuation (lmms-eval's AI2D)."""
    found = re.match(r"\s*([A-Z])\.", text)
    text = found[1] if found else text.translate(_NO_PUNCTUATION)
    return next((letter for letter in options if letter.lower() == text.lower()), None)


ANSWER_PHRASES = (
    *(f"{the}{word} is" for the in ("", "the ") for word in ("answer", "choice")),
    *(
        f"{the}{quality} {word} is"
        for the in ("", "the ")
        for quality, word in product(("correct", "best"), ("answer", "option", "choice"))
        if (quality, word) != ("best", "choice")
    ),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
"""Words after the first occurrence of which lmms-eval looks for a letter."""
LETTER_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""Forms of a letter in an answer for lmms-eval, and how much each of them counts."""


def lmms_eval_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the form that counts most for lmms-eval; of equal forms the last one in the answer.

    A letter alone at the start counts most, then one at the end, one after words such as "answer is", and
    those of ``LETTER_FORMS``.
    """
    text = f" {strip_each(text.strip(), LMMS_EVAL_STRIPPED)} "
    bare, lowered = text.strip(), text.lower()
    found = list[tuple[int, int, str]]()
    for letter in options:
        for form, weight in LETTER_FORMS:
            found.append((weight, text.rfind(form.format(letter)), letter))
        for phrase in ANSWER_PHRASES:
            start = lowered.find(phrase)
            if start >= 0:
                found.append((7, text.find(letter, start + len(phrase)), letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
    found = [one for one in found if one[1] >= 0] or [
        (0, text.rfind(letter), letter) for letter in options if letter in text
    ]
    # Sorting is stable: of equal ones the first is taken.
    return max(found, key=lambda one: one[:2])[2] if found else None


RULES: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {
    "vlmevalkit": lambda text, options: can_infer(text, options),
    "letter": exact_letter,
    "identical": identical_letter,
    "first": first_letter,
    "first_any_case": first_letter_any_case,
    "leading_or_text": leading_letter_or_text,
    "lmms_eval": lmms_eval_letter,
    "mmvp": mmvp_letter,
    "scienceqa_internvl": scienceqa_letter_internvl,
    "scienceqa_lmms_eval": scienceqa_letter_lmms_eval,
    "ai2d_lmms_eval": ai2d_letter,
    "scienceqa": scienceqa_letter,
    "mme_realworld": mme_realworld_letter,
    "mme_realworld_lmms_eval": mme_realworld_letter_lmms_eval,
    "mme_realworld_vlmevalkit": mme_realworld_letter_vlmevalkit,
    "vstar": vstar_letter,
}
