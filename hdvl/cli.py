"""``hdvl COMMAND ...`` runs ``python -m hdvl.COMMAND ...``; spaces in the command become ``_``.

The module imports no heavy libraries, so that help appears at once.
"""

import os
import runpy
import sys
from collections.abc import Sequence
from itertools import takewhile

COMMANDS = {
    "infer": "ask a model about an image, or about every image of a folder",
    "chat": "a conversation with a model in the terminal",
    "serve": "a server with OpenAI's interface, and a web page",
    "train": "train a model in stages, or resume a run",
    "plan": "shapes, tokens, parameters, memory and time of a composition",
    "evaluate": "answer and score benchmarks, with a page of all answers",
    "evaluate diff": "compare two evaluations question by question",
    "score": "score the predictions of anyone, without a model",
    "convert": "write a published model as a folder of hdvl",
    "data lint": "look for faults in the rows of data",
    "data bench": "measure how fast data are loaded, stage by stage",
    "export": "write a model as a folder of transformers",
    "compare": "how the configs and the metrics of runs differ",
    "parity": "compare the tensors and the answers of two models",
    "tile": "draw the tiles on an image and count its tokens",
    "demo": "answer questions about the shipped images, offline",
    "doctor": "check this installation and this machine",
    "list": "the config groups, or the choices of some: hdvl list encoder",
    "show": "a choice, its keys and its class: hdvl show encoder=timm",
    "completion": "print a script for bash, zsh or fish that completes keys",
}

BARE = {"compare": "runs", "evaluate diff": "runs"}
"""Commands that take arguments without ``=``, and the key that these arguments set."""


def usage() -> str:
    """Return the text of ``hdvl --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hdvl COMMAND [group=choice] [key=value] ...",
            "",
            *lines,
            "",
            "hdvl COMMAND --help lists the keys and the groups of a command with examples,",
            "--cfg job prints the config that it would run with, and --multirun runs all",
            "combinations of comma-separated values.",
        ]
    )


def split_command(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Split ``words`` into the command, which has one or two words, and its arguments."""
    both = " ".join(words[:2])
    return (both, words[2:]) if both in COMMANDS else (words[0], words[1:])


def unknown(words: Sequence[str]) -> str:
    """Return the message for ``words`` that begin with no command; it suggests the most similar one.

    >>> unknown(["trian", "llm=tiny"])
    "'trian' is no command, did you mean hdvl train?"
    """
    from difflib import get_close_matches

    firsts = {command.partition(" ")[0] for command in COMMANDS if command.partition(" ")[2]}
    typed = " ".join(words[: 2 if words[0] in firsts else 1])
    longer = [command for command in COMMANDS if command.startswith(f"{typed} ")]
    like = longer or get_close_matches(typed, COMMANDS, n=1)
    if like:
        return f"{typed!r} is no command, did you mean hdvl {' or hdvl '.join(like)}?"
    return f"{typed!r} is no command; the commands are {', '.join(COMMANDS)}"


def as_overrides(command: str, words: Sequence[str]) -> list[str]:
    """Return arguments as overrides; leading ones without ``=`` become the value of a key in BARE."""
    from hdvl.overrides import quoted

    leading = list(takewhile(is_bare, words if command in BARE else ()))
    rest = list(words[len(leading) :])
    return [f"{BARE[command]}=[{','.join(map(quoted, leading))}]", *rest] if leading else rest


def is_bare(word: str) -> bool:
    """Return whether ``word`` is a value without a key; the path of an existing file may contain ``=``."""
    return not word.startswith("-") and ("=" not in word or os.path.exists(word))


def module_of(command: str) -> str:
    """Return the name of a command's module, which is also that of its primary config."""
    return command.replace(" ", "_")


def main() -> None:
    """Run the module of the command as ``__main__``, so that relaunched worker processes run it too."""
    command, rest = split_command(sys.argv[1:] or ["--help"])
    if command in ("-h", "--help", "help"):
        print(usage())
        return
    if command in ("-V", "--version"):
        from hdvl.version import __version__

        print(f"hdvl {__version__}")
        return
    if command not in COMMANDS:
        print(f"hdvl: {unknown(sys.argv[1:])}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv[1:] = as_overrides(command, rest)
    try:
        runpy.run_module(f"hdvl.{module_of(command)}", run_name="__main__", alter_sys=True)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # as the shell says of a program that SIGPIPE ended


if __name__ == "__main__":
    main()
