"""Finds the spans of the answers in the output of a Jinja chat template. Raises if they are not certain."""

from collections.abc import Callable, Sequence

Turns = list[dict[str, str]]
Spans = list[tuple[int, int]]
Write = Callable[[Turns], str]
_THOUGHT = "</think>"


def _entire(answer: str) -> tuple[int, int]:
    return 0, len(answer)


def _stripped(answer: str) -> tuple[int, int]:
    start = len(answer) - len(answer.lstrip())
    return start, max(start, len(answer.rstrip()))


def _without_reasoning(answer: str) -> tuple[int, int]:
    after = answer.rfind(_THOUGHT) + len(_THOUGHT) if _THOUGHT in answer else 0
    start, stop = _stripped(answer[after:])
    return after + start, after + stop


# The parts of an answer that templates write: all of it, without outer spaces, or without its reasoning.
_KEPT_PARTS = (_entire, _stripped, _without_reasoning)


def find_answers(write: Write, turns: Turns, text: str) -> Spans:
    """The (start, stop) of each answer in ``text``, which is ``write(turns)``.

    The conversation is written again with a mark on either side of each answer. If removing the marks gives
    ``text``, the answers are exactly between their marks.

    Raises:
        ValueError: ``text`` is not obtained for any kind of marks.
    """
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    opening, closing = _unused(text + "".join(turn["content"] for turn in turns))
    for kept in _KEPT_PARTS:
        marked = write([_mark(turn, kept, opening, closing) for turn in turns])
        if marked.replace(opening, "").replace(closing, "") != text:
            continue
        cores = [answer[slice(*kept(answer))] for answer in answers]
        spans = _between(marked, opening, closing)
        if [text[a:b] for a, b in spans] == cores:
            return [_with_reasoning(text, s, a) for s, a in zip(spans, answers, strict=True)]
    raise ValueError(
        "the places of the answers cannot be proven in the output of this chat template; mark them "
        f"in it with {{% generation %}}, or choose another template: {text[:2000]!r}"
    )


def check_marked(text: str, marked: Sequence[tuple[int, int]], answers: Sequence[str]) -> Spans:
    """The spans that the template itself marks, each from the mark's start to the end of the answer.

    Raises:
        ValueError: there is not one mark for each answer, or a mark does not contain its answer.
    """
    if len(marked) != len(answers):
        raise ValueError(
            f"the chat template must mark each answer once with {{% generation %}}, got "
            f"{len(marked)} marks for {len(answers)} answers"
        )
    spans = Spans()
    for (start, stop), answer in zip(marked, answers, strict=True):
        cores = [answer[slice(*kept(answer))] for kept in _KEPT_PARTS]
        core = next((core for core in cores if core in text[start:stop]), None)
        if core is None:
            raise ValueError(
                f"the part that the chat template marks with {{% generation %}} must hold the "
                f"answer {answer[:200]!r}, got {text[start:stop][:200]!r}"
            )
        spans.append((start, text.rindex(core, start, stop) + len(core)))
    return spans


def widen_to_prompts(prompt: Write, turns: Turns, text: str, spans: Spans) -> Spans:
    """``spans`` extended to the left up to the end of the prompt, if there is only white space between.

    If a template writes a space before the answer, the prompt for generation ends before this space, so the
    model must be trained to write it.
    """
    indices = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    widened = Spans()
    for index, (start, stop) in zip(indices, spans, strict=True):
        before = prompt(turns[:index]) if index else ""
        between = text[len(before) : start]
        proven = index > 0 and len(before) <= start and text.startswith(before)
        widened.append((len(before) if proven and not between.strip() else start, stop))
    return widened


def _unused(text: str) -> tuple[str, str]:
    free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
    return next(free), next(free)


def _mark(
    turn: dict[str, str], kept: Callable[[str], tuple[int, int]], opening: str, closing: str
) -> dict[str, str]:
    if turn["role"] != "assistant":
        return turn
    answer = turn["content"]
    start, stop = kept(answer)
    marked = answer[:start] + opening + answer[start:stop] + closing + answer[stop:]
    return {**turn, "content": marked}


def _between(marked: str, opening: str, closing: str) -> Spans:
    """The spans between the marks, as positions in the text without marks."""
    spans, start, clean = Spans(), 0, 0
    for character in marked:
        if character == opening:
            start = clean
        elif character == closing:
            spans.append((start, clean))
        else:
            clean += 1
    return spans


def _with_reasoning(text: str, span: tuple[int, int], answer: str) -> tuple[int, int]:
    start, stop = span
    stripped = answer.strip()
    return (
        (min(start, stop - len(stripped)), stop)
        if text[:stop].endswith(stripped)
        else (start, stop)
    )
