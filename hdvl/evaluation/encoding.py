"""Files of text that must be UTF-8, with the place of the first byte that is not."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def opened_text(path: Path) -> Iterator[IO[str]]:
    """A file of text in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: the file is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError:
        raise not_utf8(path) from None


def not_utf8(path: Path) -> ValueError:
    """The error for a file with bytes that are not UTF-8; it names the first of them."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                said = "UTF-16" if number == 1 and line.startswith(UTF_16) else "LATIN1"
                return ValueError(
                    f"line {number} of {path} must be UTF-8, its byte {error.start + 1} is "
                    f"0x{line[error.start]:02x}; convert the file, such as with "
                    f"iconv -f {said} -t UTF-8"
                )
    return ValueError(f"{path} must be UTF-8, it was not when it was read; read it again")
