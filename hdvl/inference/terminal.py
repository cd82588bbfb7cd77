"""A conversation in the terminal: questions, images and commands, read line by line."""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hdvl.files import write_text
from hdvl.images import name_of
from hdvl.inference.answer import Answer
from hdvl.inference.pipeline import Pipeline
from hdvl.inference.summary import box_lines, doubts, image_line, number_line, write_drawings
from hdvl.protocols import Message

MISTAKES = (ValueError, TypeError, OSError, RuntimeError)
"""Errors that end a question and not the conversation."""


class TerminalChat:
    """A conversation of several turns with one model.

    Args:
        pipe: the model.
        write: writes a piece of an answer.
        note: writes a line of anything else: costs, boxes, errors.
        generation: options of every question, see :meth:`hdvl.inference.Pipeline.chat`.
        system: the system message; ``None`` for the template's.
    """

    def __init__(
        self,
        pipe: Pipeline,
        *,
        write: Callable[[str], object],
        note: Callable[[str], object],
        generation: Mapping[str, Any],
        system: str | None = None,
    ) -> None:
        self.pipe, self._write, self._note = pipe, write, note
        self.generation, self.system = dict(generation), system
        self.history: tuple[Message, ...] = ()
        self.images = list[Path]()
        self.answer: Answer | None = None
        self.commands: dict[str, tuple[str, str, Callable[[list[str]], None]]] = {
            "image": ("FILE ...", "show images with the next question", self.show),
            "boxes": (
                "[FILE]",
                "list the boxes of the last answer; draw them to FILE",
                self._boxes,
            ),
            "save": ("FILE", "write the conversation as JSON", self._save),
            "clear": ("", "begin a new conversation", self._clear),
            "help": ("", "list the commands", self._help),
            "quit": ("", "leave; so do Ctrl-D and the end of the input", self._clear),
        }

    def run(self, read: Callable[[], str]) -> None:
        """Answer until the input ends or ``/quit``. Mistakes are reported, and the conversation continues.

        Args:
            read: gives the next line; raises ``EOFError`` at the end of the input and
                ``KeyboardInterrupt`` for a line that was given up.
        """
        while True:
            try:
                line = read().rstrip()
                if line.split(maxsplit=1)[:1] == ["/quit"]:
                    return
                if line.strip():
                    self.handle(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._note("\n(interrupted; /quit leaves)")
            except MISTAKES as error:
                self._note(f"error    {' '.join(str(error).split()) or type(error).__name__}")

    def handle(self, line: str) -> None:
        """Carry out a command, or ask a question.

        Raises:
            ValueError: there is no such command, or the question cannot be asked. Images that wait for
                the question still wait.
        """
        if not line.startswith("/"):
            self._ask(line.strip())
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self.commands:
            raise ValueError(
                f"/{name} is no command, /help lists them; a question may begin with a space before /"
            )
        self.commands[name][2](shlex.split(rest))

    def _ask(self, question: str) -> None:
        first = not self.history
        stream = self.pipe.stream(
            question,
            images=list(self.images),
            history=self.history,
            system=self.system if first else None,
            **self.generation,
        )
        try:
            for piece in stream:
                self._write(piece)
        finally:
            self._write("\n")
        self.answer = stream.answer
        self.history = self.answer.history
        self.images.clear()
        for text in (*box_lines(self.answer), *doubts(self.answer), number_line(self.answer)):
            self._note(text)

    def show(self, names: list[str]) -> None:
        """Show the image files ``names`` with the next question."""
        if not names:
            raise ValueError("/image needs a file, such as /image receipt.png")
        known = sum(len(message.images) for message in self.history) + len(self.images)
        for name in names:
            path = Path(name).expanduser()
            processor = self.pipe.processor.limited(self.generation.get("max_tiles"))
            plan = processor.tiler(path).plan
            self.images.append(path)
            known += 1
            tokens = processor.token_count(plan)
            self._note(f"{image_line(known, plan)}, {tokens} tokens")

    def _boxes(self, names: list[str]) -> None:
        if self.answer is None:
            raise ValueError("/boxes needs an answer; ask a question first")
        for line in box_lines(self.answer) or ["no boxes in the last answer"]:
            self._note(line)
        for name in names[:1]:
            for path in write_drawings(self.answer, name):
                self._note(f"drawn    {path}")

    def _save(self, names: list[str]) -> None:
        if len(names) != 1:
            raise ValueError("/save needs one file, such as /save chat.json")
        turns = [
            {
                "role": message.role,
                "content": message.text,
                **(
                    {"images": [name_of(image) for image in message.images]}
                    if message.images
                    else {}
                ),
            }
            for message in self.history
        ]
        write_text(names[0], json.dumps(turns, indent=2, ensure_ascii=False) + "\n")
        self._note(f"saved    {names[0]}: {len(turns)} messages")

    def _clear(self, _: list[str]) -> None:
        self.history, self.answer = (), None
        self.images.clear()
        self._note("a new conversation")

    def _help(self, _: list[str]) -> None:
        for name, (arguments, text, _run) in self.commands.items():
            self._note(f"  {f'/{name} {arguments}':<18} {text}")
        self._note("  anything else is a question; Ctrl-C ends an answer early")
