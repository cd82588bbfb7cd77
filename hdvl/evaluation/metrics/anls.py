"""ANLS, the edit distance score of DocVQA, InfographicsVQA and ST-VQA, in four public versions.

``anls`` equals the script of the Robust Reading Competition: the distance ignores case and repeated
white space, the lengths are those of the raw texts, and a similarity of exactly 0.5 counts. Each
function scores one prediction against all accepted answers.
"""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

THRESHOLD = 0.5


def anls(answers: Sequence[str], prediction: str, threshold: float = THRESHOLD) -> float:
    """ANLS of the Robust Reading Competition, the official one."""
    given = " ".join(prediction.lower().split())
    least = min(normalised_distance(answer, prediction, given) for answer in answers)
    return 1 - least if 1 - least >= threshold else 0.0


def normalised_distance(answer: str, prediction: str, given: str) -> float:
    """Distance of the cleaned texts over the length of the longer raw text in upper case."""
    length = max(len(answer.upper()), len(prediction.upper()))
    if length == 0:
        return 0.0
    return Levenshtein.distance(" ".join(answer.lower().split()), given) / length


def anls_pix2struct(answers: Sequence[str], prediction: str) -> float:
    """ANLS of pix2struct: only case is ignored, and a similarity of exactly 0.5 scores nothing."""
    scores = []
    for answer in answers:
        distance = share(answer.lower(), prediction.lower())
        scores.append(1 - distance if distance < THRESHOLD else 0.0)
    return max(scores)


def anls_mp_docvqa(answers: Sequence[str], prediction: str) -> float:
    """ANLS of the MP-DocVQA framework: an empty prediction and "none" score nothing."""
    given = prediction.lower().strip()
    if given in {"", "none"}:
        return 0.0
    best = max(1 - share(answer.lower().strip(), given) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def anls_m4c(answers: Sequence[str], prediction: str) -> float:
    """ANLS of the M4C evaluator of ST-VQA: ends are stripped and case is ignored."""
    given = prediction.lower().strip()
    best = max(1 - share(answer.lower().strip(), given) for answer in answers)
    return best if best >= THRESHOLD else 0.0


def share(first: str, second: str) -> float:
    """Edit distance over the longer length."""
    longest = max(len(first), len(second))
    if longest == 0:
        raise ValueError(
            "this version of ANLS divides by zero when answer and prediction are both empty; "
            "score the question with anls, the official version"
        )
    return Levenshtein.distance(first, second) / longest
