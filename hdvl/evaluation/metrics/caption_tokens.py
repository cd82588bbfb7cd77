"""Tokenised captions for CIDEr-D, BLEU and ROUGE-L, and the name of the tokenizer that made them.

The published scores come from a Java program. It is used where it is installed (``java`` on the
path and the package pycocoevalcap, which brings the program); elsewhere ``ptb_tokenizer`` is, which
gives the same tokens for ordinary captions. A result should say which one it was.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hdvl.evaluation.metrics import ptb_tokenizer

JAR = "stanford-corenlp-3.4.1.jar"
MAIN = "edu.stanford.nlp.process.PTBTokenizer"


@dataclass(frozen=True)
class Tokenized:
    """The captions in their order, as tokens with a space between them."""

    captions: list[str]
    tokenizer: str


def java_program() -> Path | None:
    """The Java program of pycocoevalcap, if it and Java are installed."""
    package = find_spec("pycocoevalcap")
    if package is None or shutil.which("java") is None:
        return None
    folders = [Path(folder) / "tokenizer" for folder in package.submodule_search_locations or ()]
    return next((folder / JAR for folder in folders if (folder / JAR).is_file()), None)


def tokenize_captions(captions: Sequence[str], *, java: bool | None = None) -> Tokenized:
    """Tokenise captions, with Java where it is installed; ``java`` True or False decides."""
    jar = java_program() if java is not False else None
    if jar is None:
        if java:
            raise ValueError(
                f"java=True needs Java and {JAR} of the package pycocoevalcap, got neither or one "
                "of them; install both, or leave java out"
            )
        return Tokenized(ptb_tokenizer.tokenize(captions), ptb_tokenizer.NAME)
    return Tokenized(tokenize_with_java(captions, jar), JAR.removesuffix(".jar"))


def tokenize_with_java(captions: Sequence[str], jar: Path) -> list[str]:
    """What the program prints for the captions, a line each, without punctuation."""
    text = "\n".join(ptb_tokenizer.one_line(caption) for caption in captions)
    command = ["java", "-cp", str(jar), MAIN, "-preserveLines", "-lowerCase"]
    run = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    lines = run.stdout.decode().split("\n")
    if len(lines) < len(captions):
        raise ValueError(
            f"{JAR} must print a line for each of {len(captions)} captions, got {len(lines)}; "
            "pass java=False to tokenise without it"
        )
    return [
        " ".join(token for token in line.rstrip().split(" ") if token not in ptb_tokenizer.LEFT_OUT)
        for line in lines[: len(captions)]
    ]
