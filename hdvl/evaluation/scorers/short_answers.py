"""Scorers of short answers: VQA accuracy, ANLS, relaxed accuracy, exact match."""

from collections.abc import Callable, Mapping, Sequence

from hdvl.evaluation.metrics.anls import anls
from hdvl.evaluation.metrics.exact_match import exact_match, exact_match_lmms_eval
from hdvl.evaluation.metrics.gqa import GQAScore, llava_answer, score_gqa
from hdvl.evaluation.metrics.relaxed_accuracy import relaxed_correct, relaxed_correct_swapped
from hdvl.evaluation.metrics.vizwiz import vizwiz_accuracy
from hdvl.evaluation.metrics.vqa_accuracy import (
    lmms_eval_accuracy,
    m4c_accuracy,
    vlmevalkit_accuracy,
    vqa_accuracy,
)
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.conversions import qwen_gqa_answer
from hdvl.evaluation.scores import Scores, mean_scores

METRICS: dict[str, tuple[str, Callable[[Sequence[str], str], float]]] = {
    "vqa": ("VQA accuracy", vqa_accuracy),
    "m4c": ("VQA accuracy (M4C)", m4c_accuracy),
    "vizwiz": ("VQA accuracy (VizWiz)", vizwiz_accuracy),
    "vqa_lmms_eval": ("VQA accuracy (lmms-eval)", lmms_eval_accuracy),
    "vqa_vlmevalkit": ("VQA accuracy (VLMEvalKit)", vlmevalkit_accuracy),
    "anls": ("ANLS", anls),
    "exact": ("exact match", exact_match),
    "exact_lmms_eval": ("exact match (lmms-eval)", exact_match_lmms_eval),
    "relaxed": (
        "relaxed accuracy",
        lambda answers, text: any(relaxed_correct(answer, text) for answer in answers),
    ),
    "relaxed_vlmevalkit": (
        "relaxed accuracy (VLMEvalKit)",
        lambda answers, text: any(relaxed_correct(answer, text.strip()) for answer in answers),
    ),
    "relaxed_swapped": (
        "relaxed accuracy (Qwen-VL)",
        lambda answers, text: any(relaxed_correct_swapped(answer, text) for answer in answers),
    ),
}


def metric_of(metric: str) -> tuple[str, Callable[[Sequence[str], str], float]]:
    """The name and the function of a metric of single answers.

    Raises:
        ValueError: there is no such metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    return METRICS[metric]


def short_answer_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, metric: str
) -> Scores:
    """Mean of a metric of single answers, one of ``METRICS``, in per cent.

    Raises:
        ValueError: there is no such metric.
    """
    name, one = metric_of(metric)
    correct = {sample.id: float(one(sample.accepted, answers[sample.id])) for sample in samples}
    return mean_scores(name, samples, correct)


GQA_CONVERTERS: dict[str | None, Callable[[str], str]] = {
    None: str,
    "llava": llava_answer,
    "qwen_vl": qwen_gqa_answer,
}
"""How the scripts of protocols change an answer to GQA before it is scored."""

GQA_ACCURACY_ONLY = (
    "the table has no types of questions; the scores by type, consistency and distribution need "
    "gqa/testdev_balanced_questions.json"
)


def gqa_scores(
    samples: Sequence[Sample], answers: Mapping[str, str], *, convert: str | None = None
) -> Scores:
    """GQA: accuracy on the balanced questions, with its scores by type and its consistency.

    Args:
        samples: questions whose ``extra["gqa"]`` is their entry in the question file. Those of a table
            without such entries count as balanced, and only their accuracy is computed.
        answers: the answer to each.
        convert: ``"llava"`` removes periods at the end and lowers the case, ``"qwen_vl"`` cuts as Qwen-VL's
            script does; ``None`` leaves the answers as they are.
    """
    if convert not in GQA_CONVERTERS:
        raise ValueError(f"convert must be llava, qwen_vl or null, got {convert!r}")
    given = {sample.id: GQA_CONVERTERS[convert](answers[sample.id]) for sample in samples}
    questions = {sample.id: sample.extra["gqa"] for sample in samples if "gqa" in sample.extra}
    balanced = [
        sample
        for sample in samples
        if sample.id not in questions or questions[sample.id]["isBalanced"]
    ]
    correct = {sample.id: float(given[sample.id] == sample.answer) for sample in balanced}
    scores = mean_scores("accuracy", balanced, correct, parsed=given)
    if questions:
        add_gqa_scores(scores, score_gqa(questions, given))
    else:
        scores.notes.append(GQA_ACCURACY_ONLY)
    return scores


def add_gqa_scores(scores: Scores, found: GQAScore) -> None:
    """Add the scores by type, consistency and distribution to the accuracy."""
    scores.values |= {"binary": found.binary, "open": found.open}
    optional = {"consistency": found.consistency, "distribution": found.distribution}
    scores.values |= {name: value for name, value in optional.items() if value is not None}
    scores.tables |= {
        "structural": found.structural,
        "semantic": found.semantic,
        "steps": {str(number): value for number, value in found.steps.items()},
        "words": {str(number): value for number, value in found.words.items()},
    }
