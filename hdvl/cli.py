"""``hdvl VERB ...`` is ``python -m hdvl.VERB ...``, with ``_`` in a verb of two words.

Imports nothing heavy: help is instant.
"""

import runpy
import sys
from collections.abc import Sequence
from itertools import takewhile

VERBS = {
    "infer": "ask a model about pictures",
    "train": "train a model in stages, or go on with a run",
    "plan": "shapes, tokens, parameters, memory and FLOPs of a composition, without building it",
    "convert": "write a published model as a folder of hdvl",
    "data lint": "look for faults in the rows of data, and write which to leave out",
    "data bench": "how fast data load: reading, decoding, tiling, tokenising; processes and threads",
    "export": "write a model as a folder of transformers",
    "compare": "how the configs and the metrics of runs differ",
    "parity": "compare two models, tensor by tensor and answer by answer",
    "tile": "draw the tiles on a picture and count its tokens",
    "demo": "answer questions about the shipped pictures, offline",
    "doctor": "check this installation and this machine",
}

BARE = {"compare": "runs"}
"""Verbs that may be given words without ``=``, and the key that these are the value of."""


def usage() -> str:
    """What ``hdvl --help`` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: hdvl VERB [group=choice] [key=value] ...",
            "",
            *lines,
            "",
            "hdvl VERB --help lists the groups and keys of a verb, --cfg job prints what it would",
            "run with, --multirun runs every combination of comma-separated values.",
        ]
    )


def split_verb(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb that ``words`` begin with, of one word or of two, and the rest."""
    both = " ".join(words[:2])
    return (both, words[2:]) if both in VERBS else (words[0], words[1:])


def as_overrides(verb: str, words: Sequence[str]) -> list[str]:
    """The words of a verb as Hydra takes them: bare ones in front are the value of its key in BARE."""
    bare = takewhile(lambda word: "=" not in word and word[0] != "-", words if verb in BARE else ())
    quoted = ["'" + word.replace("'", "\\'") + "'" for word in bare]
    rest = list(words[len(quoted) :])
    return [f"{BARE[verb]}=[{','.join(quoted)}]", *rest] if quoted else rest


def module_of(verb: str) -> str:
    """The module, and the primary config, of a verb."""
    return verb.replace(" ", "_")


def main() -> None:
    """Hand over to the module of the verb, so that relaunched workers find it in ``__main__``."""
    verb, rest = split_verb(sys.argv[1:] or ["--help"])
    if verb in ("-h", "--help", "help"):
        print(usage())
        return
    if verb in ("-V", "--version"):
        from hdvl import __version__

        print(f"hdvl {__version__}")
        return
    if verb not in VERBS:
        print(f"usage: hdvl {{{','.join(VERBS)}}} [key=value] ...; got {verb!r}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv[1:] = as_overrides(verb, rest)
    runpy.run_module(f"hdvl.{module_of(verb)}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
