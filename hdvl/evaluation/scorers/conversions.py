"""Answers as the scripts of published models cut them before they are scored."""

import re


def qwen_gqa_answer(text: str) -> str:
    """A GQA answer as Qwen-VL's script cuts it.

    It keeps the text before the first period, comma or exclamation mark, in lower case; then for each of
    "is ", "are ", "a ", "an " and "the ", also inside of words, the text between its first and its second
    occurrence; and the text before " of".
    """
    text = re.split("[.,!]", text.strip(), maxsplit=1)[0].lower()
    for word in ("is ", "are ", "a ", "an ", "the "):
        if word in text:
            text = text.split(word)[1]
    return text.split(" of")[0].strip()


CHINESE = re.compile("[\u4e00-\u9fa5]")


def internvl_mme_answer(text: str) -> str:
    """An MME answer as InternVL's script rewrites it before the official scorer reads it."""
    text = text.replace("\n", "")
    for word, meaning in (("不是", "No"), ("是", "Yes"), ("否", "No")):
        text = text.replace(word, meaning)
    return CHINESE.sub("", text.lower().replace("true", "yes").replace("false", "no"))
