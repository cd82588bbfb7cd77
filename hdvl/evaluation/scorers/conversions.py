"""Answers as the scripts of published models cut them before they are scored."""

import re


def qwen_gqa_answer(text: str) -> str:
    """A GQA answer as Qwen-VL's script cuts it.

    It keeps the text before the first period, comma or exclamation mark, then the text after "is ",
    "are ", "a ", "an " and "the ", also inside of words, and the text before " of". The order of these
    steps was not compared with the script itself.
    """
    for mark in (".", ",", "!"):
        text = text.split(mark)[0]
    for word in ("is ", "are ", "a ", "an ", "the "):
        text = text.split(word, 1)[1] if word in text else text
    return re.split(" of", text, maxsplit=1)[0].strip().lower()
