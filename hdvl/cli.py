"""``hdvl VERB ...`` is ``python -m hdvl.VERB ...``. Imports nothing heavy: help is instant."""

import runpy
import sys

VERBS = {
    "infer": "ask a model about pictures",
    "train": "train a model in stages, or go on with a run",
    "plan": "shapes, tokens, parameters, memory and FLOPs of a composition, without building it",
    "tile": "draw the tiles on a picture and count its tokens",
    "demo": "answer questions about the shipped pictures, offline",
    "doctor": "check this installation and this machine",
}


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


def main() -> None:
    """Hand over to the module of the verb, so that relaunched workers find it in ``__main__``."""
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
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
    del sys.argv[1]
    runpy.run_module(f"hdvl.{verb}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
