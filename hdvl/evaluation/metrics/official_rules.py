"""Rules of official scorers for predictions that are missing, repeated, unknown or not text."""

from hdvl.evaluation.metrics.joining import Rules

RULES = {
    rules.benchmark: rules
    for rules in (
        Rules("VQA v2", unknown="refuse"),
        Rules("VizWiz", unknown="refuse"),
        # The M4C evaluator takes the mean over the rows of the file
        Rules("TextVQA", missing="skip", duplicate="each", unknown="refuse"),
        Rules("DocVQA", duplicate="refuse", unknown="refuse"),
        Rules("GQA"),
        Rules("ScienceQA", missing="empty"),
        Rules("MMMU", missing="skip", unknown="refuse"),
        Rules("CMMMU"),
        # VLMEvalKit converts every cell to text, so that an empty one becomes "nan"
        Rules("MMBench", missing="skip", not_text="str"),
        Rules("MMStar", missing="skip", not_text="str"),
        Rules("OCRBench", missing="skip"),
        Rules("MathVista", missing="skip", not_text="str"),
        Rules("COCO captions", missing="skip", duplicate="refuse", unknown="refuse"),
        Rules("RefCOCO", missing="skip"),
        Rules("ChartQA", missing="skip"),
        Rules("GRIT refexp"),
    )
}
