"""The kinds of values in described layouts, by name, and the vocabulary of those layouts."""

import random
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

import hdvl.data.synthetic.words as words

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ONSETS = (
    *"b c d f g h j k l m n p r s t v w z y br ch cl cr dr fl gr pl pr qu sh sl sp st str th tr wh".split(),
    *("", ""),
)
_VOWELS = "a a a e e e e i i i o o u y ai ea ee ie io oo ou".split()
_CODAS = (*"d l m n r s t x ck ll mp nd ng nt rd rk rt ss st".split(), *("",) * 14)
_ENDINGS = ("No", "Date", "Rate", "Type", "1", "2", "A", "B", "M8", "(kg)")
_CAPITALS = "ABCDEFGHJKLMNPRSTUVWXYZ"


@cache
def vocabulary() -> dict[str, Any]:
    """The content of ``vocabulary.yaml``."""
    text = files(__package__).joinpath("vocabulary.yaml").read_text("utf-8")
    held: dict[str, Any] = yaml.safe_load(text)
    return held


def draw_value(rng: random.Random, kind: str) -> str:
    """A random value of a kind, such as ``date``."""
    return _KINDS[kind](rng)


def invented_label(rng: random.Random) -> str:
    """A label of one to three words of syllables, which mean nothing: ``Brenot``, ``Tafil No``.

    A model that is to find labels which it has never seen learns from them to compare letters.
    """
    label = " ".join(_invented_word(rng) for _ in range(rng.choices((1, 2, 3), (12, 7, 1))[0]))
    return label + rng.choices(("", f" {rng.choice(_ENDINGS)}"), (9, 1))[0]


def _invented_word(rng: random.Random) -> str:
    count = rng.choices((1, 2, 3, 4), (3, 9, 6, 1))[0]
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count)]
    word = "".join(parts)[: rng.choice((5, 8, 12))]
    return word.upper() if len(word) < 4 and rng.random() < 0.3 else word.capitalize()


def _money(rng: random.Random) -> str:
    amount = rng.randrange(50, 10 ** rng.randint(3, 6)) / 100
    form = rng.choice(("{:.2f}", "{:.2f}", "{:,.2f}", "${:.2f}", "£{:.2f}", "{:.2f} EUR", "{:.2f}"))
    text = form.format(amount)
    return text.replace(".", ",") if "," not in text and rng.random() < 0.15 else text


def _date(rng: random.Random) -> str:
    year, month, day = rng.randint(1960, 2029), rng.randint(1, 12), rng.randint(1, 28)
    forms = (
        f"{year}-{month:02d}-{day:02d}",
        f"{day:02d}.{month:02d}.{year}",
        f"{day:02d}/{month:02d}/{year}",
        f"{day} {_MONTHS[month - 1]} {year}",
        f"{_MONTHS[month - 1]} {day}, {year}",
        f"{day:02d}.{month:02d}.{year % 100:02d}",
    )
    return rng.choice(forms)


def _clock(rng: random.Random) -> str:
    if rng.random() < 0.75:
        return words.clock(rng)
    return f"{rng.randint(1, 12)}:{rng.randint(0, 59):02d} {rng.choice(('am', 'pm'))}"


def _phone(rng: random.Random) -> str:
    first, second = rng.randint(200, 999), rng.randint(1000, 9999)
    forms = (f"{first}-{second}", f"0{first} {second}", f"+{rng.randint(30, 49)} {first} {second}")
    return rng.choice(forms)


def _code(rng: random.Random) -> str:
    letters = "".join(rng.choices(_CAPITALS, k=rng.randint(1, 3)))
    number = rng.randrange(10, 10 ** rng.randint(2, 6))
    forms = (f"{letters}-{number}", f"{letters}{number}", f"{letters} {number}", f"{number}")
    return rng.choice((*forms, f"{number}/{rng.randint(10, 99)}", f"{number}-{letters}"))


def _digits(rng: random.Random) -> str:
    parts = [f"{rng.randrange(10000):04d}" for _ in range(rng.randint(2, 3))]
    return rng.choice((" ", "-", "")).join(parts)


def _repeated(rng: random.Random) -> str:
    """A code of two different characters, so that many follow themselves, which is hard to copy."""
    few = rng.sample(rng.choice(("0123456789", _CAPITALS)), 2)
    code = "".join(rng.choices(few, k=rng.randint(4, 9)))
    return code if rng.random() < 0.6 else f"{code[:3]}{rng.choice('- ')}{code[3:]}"


def _iban(rng: random.Random) -> str:
    country = rng.choice(("GB", "DE", "FR", "ES", "IT", "AT"))
    return " ".join(
        [f"{country}{rng.randint(10, 99)}", *(f"{rng.randrange(10000):04d}" for _ in range(3))]
    )


def _person(rng: random.Random) -> str:
    first, last = (rng.choice(vocabulary()[key]) for key in ("first_names", "last_names"))
    return rng.choice((f"{first} {last}", f"{first} {last}", f"{first[0]}. {last}", last))


def _place(rng: random.Random) -> str:
    return str(rng.choice(vocabulary()["groups"]["places"]["any"]))


def _street(rng: random.Random) -> str:
    name, number = rng.choice(vocabulary()["streets"]), rng.randint(1, 199)
    return rng.choice((f"{number} {name}", f"{name} {number}"))


def _weight(rng: random.Random) -> str:
    unit = rng.choice(("kg", "g", "mg", "ml", "l"))
    amount = rng.choice((f"{rng.randint(1, 999)}", f"{rng.randrange(1, 999) / 10:.1f}"))
    return f"{amount}{rng.choice((' ', ''))}{unit}"


def _electric(rng: random.Random) -> str:
    return f"{rng.choice((6, 12, 24, 50, 60, 110, 230, 400, 1500))} {rng.choice(('V', 'W', 'A', 'Hz'))}"


_KINDS: dict[str, Callable[[random.Random], str]] = {
    "money": _money,
    "price": words.price,
    "number": words.number,
    "percent": lambda rng: f"{rng.randint(1, 99)}{rng.choice(('%', ' %'))}",
    "quantity": lambda rng: rng.choice(("{}", "{}", "{} x", "{} pcs")).format(rng.randint(1, 60)),
    "page": lambda rng: str(rng.randint(1, 120)),
    "code": _code,
    "digits": _digits,
    "repeated": _repeated,
    "iban": _iban,
    "date": _date,
    "clock": _clock,
    "phone": _phone,
    "person": _person,
    "place": _place,
    "street": _street,
    "room": lambda rng: rng.choice(
        (f"{rng.randint(1, 40)}{rng.choice('ABCDEF')}", words.number(rng))
    ),
    "weight": _weight,
    "size": lambda rng: f"{rng.randint(2, 200)} x {rng.randint(2, 200)} {rng.choice(('cm', 'mm'))}",
    "temperature": lambda rng: f"{rng.randrange(-200, 2400) / 10:.1f} C",
    "electric": _electric,
    "rate": lambda rng: f"{rng.randrange(100, 99999) / 1000:.3f}",
    "meter": lambda rng: f"{rng.randrange(10**6):0{rng.randint(5, 7)}d}",
    "word": lambda rng: rng.choice(vocabulary()["words"]),
}


def any_value(rng: random.Random) -> str:
    """A random value of any kind."""
    return rng.choice(list(_KINDS.values()))(rng)
