"""``hdvl chat``: a conversation with a model in the terminal."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hdvl.chosen_model import pipeline_of
from hdvl.command import command
from hdvl.config import given_words


def read_line() -> str:
    """Read a line of the standard input, with a prompt and line editing on a terminal."""
    if not sys.stdin.isatty():
        return input()
    import readline  # noqa: F401 - gives input() a history and editing

    return input("> ")


def run(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Load the model and answer messages until the input ends."""
    pipe = pipeline_of(cfg, overrides)
    from hdvl.inference.terminal import TerminalChat

    names = ("seed", "max_tiles", "select", "select_tiles")
    chat = TerminalChat(
        pipe,
        write=partial(print, end="", flush=True),
        note=partial(print, file=sys.stderr, flush=True),
        generation={**cfg["generation"], **{name: cfg[name] for name in names}},
        system=cfg["system"],
    )
    parameters = sum(value.numel() for value in pipe.model.parameters())
    print(
        f"{cfg['checkpoint'] or 'a new model'}: {parameters / 1e6:.1f} M parameters; "
        "/image FILE shows an image, /help lists the commands",
        file=sys.stderr,
    )
    images = [cfg["image"]] if isinstance(cfg["image"], str) else list(cfg["image"] or ())
    if images:
        chat.show(images)
    chat.run(read_line)


def main() -> None:
    """Run the command."""
    command("chat", lambda cfg: run(cfg, given_words()), checkpoint="checkpoint")


if __name__ == "__main__":
    main()
