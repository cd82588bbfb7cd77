"""Tokenisation of captions for CIDEr-D, BLEU and ROUGE-L.

The published scores were computed with a Java program. It is used if it is installed (``java`` on the
path, and the package pycocoevalcap, which contains the program). Otherwise ``ptb_tokenizer`` is used,
which gives the same tokens for ordinary captions. Results name the tokenizer that was used.
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
    """The tokenised captions in order, with spaces between tokens, and the name of the tokenizer."""

    captions: list[str]
    tokenizer: str


def java_program() -> Path | None:
    """Return the path of the Java program of pycocoevalcap if it and Java are installed."""
    package = find_spec("pycocoevalcap")
    if package is None or shutil.which("java") is None:
        return None
    folders = [Path(folder) / "tokenizer" for folder in package.submodule_search_locations or ()]
    return next((folder / JAR for folder in folders if (folder / JAR).is_file()), None)


def tokenize_captions(captions: Sequence[str], *, java: bool | None = None) -> Tokenized:
    """Tokenise captions.

    Args:
        captions: the captions.
        java: whether to use the Java program; ``None`` uses it if it is installed.

    Raises:
        ValueError: ``java`` is true and the program is not installed.
    """
    jar = java_program() if java is not False else None
    if jar is None:
        if java:
            raise ValueError(
                f"java=True needs Java and {JAR} of the package pycocoevalcap, got neither or one "
                "of them; install both, or omit java"
            )
        return Tokenized(ptb_tokenizer.tokenize(captions), ptb_tokenizer.NAME)
    return Tokenized(tokenize_with_java(captions, jar), JAR.removesuffix(".jar"))


def tokenize_with_java(captions: Sequence[str], jar: Path) -> list[str]:
    """Return the tokens that the Java program prints for each caption, without punctuation."""
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
        " ".join(
            token for token in line.rstrip().split(" ") if token not in ptb_tokenizer.REMOVED_TOKENS
        )
        for line in lines[: len(captions)]
    ]
