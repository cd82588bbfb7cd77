"""Yes or no as VLMEvalKit reads it for MME, POPE and HallusionBench: one of the words, not both."""

from typing import Literal

from hdvl.evaluation.metrics.vqa_text import LONE_PERIOD, without_marks


def extract_yes_no(prediction: str) -> Literal["Yes", "No", "Unknown"]:
    """The one of "yes" and "no" that occurs as a word; "Unknown" for both or neither."""
    words = set(without_marks(prediction.lower(), LONE_PERIOD).split())
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"
