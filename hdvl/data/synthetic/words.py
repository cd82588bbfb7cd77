"""The vocabulary of the synthetic documents: labels and goods that questions name, and values."""

import json
import random
from itertools import product
from pathlib import Path

_WORDS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
LABELS: dict[str, list[str]] = _WORDS["labels"]
GOODS: dict[str, list[str]] = _WORDS["goods"]
PLACES: dict[str, list[str]] = _WORDS["places"]
SHOPS: dict[str, list[str]] = _WORDS["shops"]
TOTALS: dict[str, list[str]] = _WORDS["totals"]
COLUMNS: dict[str, list[str]] = _WORDS["columns"]
PHRASES: dict[str, list[str]] = _WORDS["phrases"]
LISTS = {
    "labels": LABELS,
    "goods": GOODS,
    "places": PLACES,
    "shops": SHOPS,
    "totals": TOTALS,
    "columns": COLUMNS,
}
COLORS = {
    "red": (200, 40, 40),
    "blue": (40, 70, 190),
    "green": (30, 130, 60),
    "purple": (120, 50, 150),
    "brown": (120, 75, 40),
    "black": (25, 25, 25),
}
_CODE_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


def price(rng: random.Random, top: int = 9999) -> str:
    """An amount with two decimals."""
    return f"{rng.randrange(50, top) / 100:.2f}"


def number(rng: random.Random) -> str:
    """A whole number of two to five digits."""
    return str(rng.randrange(10, 10 ** rng.randint(2, 5)))


def code(rng: random.Random) -> str:
    """A code such as ``KX-4821``."""
    letters = "".join(rng.choices(_CODE_LETTERS, k=2))
    return f"{letters}-{rng.randrange(100, 9999)}"


def date(rng: random.Random) -> str:
    """An ISO date."""
    return f"{rng.randint(2015, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def clock(rng: random.Random) -> str:
    """A time of day, 24 hours."""
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


def phone(rng: random.Random) -> str:
    """A short telephone number."""
    return f"{rng.randint(200, 999)}-{rng.randint(1000, 9999)}"


def person(rng: random.Random, language: str) -> str:
    """A made-up name."""
    if language == "zh":
        given = "".join(rng.choices(_WORDS["given_names"], k=rng.randint(1, 2)))
        return f"{rng.choice(_WORDS['surnames'])}{given}"
    return f"{rng.choice(_WORDS['first_names'])} {rng.choice(_WORDS['last_names'])}"


def value(rng: random.Random, language: str) -> str:
    """Any value a form may hold."""
    makers = (price, number, code, date, clock, phone)
    if rng.random() < 0.2:
        return person(rng, language)
    if rng.random() < 0.1:
        return rng.choice(PLACES[language])
    return rng.choice(makers)(rng)


def phrase(form: str, language: str, **words: str) -> str:
    """A question in ``language`` with its words filled in; English words in lower case, but places."""
    spelt = {key: word if key == "places" else word.lower() for key, word in words.items()}
    return PHRASES[form][language == "zh"].format(**spelt)


def texts() -> list[str]:
    """What a tokenizer may learn its words from: every question, and every Chinese character alone.

    The characters, role names and bare phrases stand often enough to become tokens.
    """
    found = [char for char in alphabet() if ord(char) > 0x2E80] * 40
    found += [word for form in PHRASES.values() for word in form[0].split(" ")] * 40
    found += ["user", "assistant", "system"] * 100
    for number, language in enumerate(("en", "zh")):
        for form, spellings in PHRASES.items():
            slots = [key for key in LISTS if f"{{{key}}}" in spellings[number]]
            choices = product(*([(key, word) for word in LISTS[key][language]] for key in slots))
            found += [phrase(form, language, name="", **dict(choice)) for choice in choices]
    return found


def alphabet() -> str:
    """Every character that a document can show, sorted: the classes of the dense reading labels."""
    words = ["0123456789.:-$¥%,/()#", _CODE_LETTERS]
    for name, group in _WORDS.items():
        if name == "phrases":
            continue
        words += (
            [word for part in group.values() for word in part] if isinstance(group, dict) else group
        )
    spellings = (spelt for word in words for spelt in (word, word.upper(), word.title()))
    return "".join(sorted({char for spelt in spellings for char in spelt if not char.isspace()}))
