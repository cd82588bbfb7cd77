"""Extraction of yes or no as in VLMEvalKit for MME, POPE and HallusionBench."""

from typing import Literal

from hdvl.evaluation.metrics.vqa_text import LONE_PERIOD, without_marks


def extract_yes_no(prediction: str) -> Literal["Yes", "No", "Unknown"]:
    """Return "Yes" or "No" if exactly one of them occurs as a word, otherwise "Unknown"."""
    words = set(without_marks(prediction.lower(), LONE_PERIOD).split())
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"
