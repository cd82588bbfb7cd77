"""Rules of official scorers for predictions that are missing, repeated, unknown or not text."""

from hdvl.evaluation.metrics.joining import Rules

RULES = {
    rules.benchmark: rules
    for rules in (
        # The script lists the ids of all rows, and looks up the last answer to each of them
        Rules("VQA v2", duplicate="repeat", unknown="refuse"),
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
