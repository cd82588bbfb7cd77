"""How each benchmark asks its judge, as its official script does.

The words come from that script, see :mod:`hdvl.evaluation.judging.wording`. The options of the requests are
those of the scripts. Where a script asks without an option, the judge's own default applies.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hdvl.evaluation.folder import DataFolder
from hdvl.evaluation.judging.judge import Chain
from hdvl.evaluation.judging.judging import query
from hdvl.evaluation.judging.wording import Script
from hdvl.evaluation.metrics.llava_bench import UNREAD, parse_review
from hdvl.evaluation.metrics.mathvista import quick_extraction
from hdvl.evaluation.metrics.touchstone import parse_reply
from hdvl.evaluation.samples import Sample
from hdvl.evaluation.scorers.mathvista_problem import problem_of

Chains = dict[str, list[Chain]]
Words = Mapping[str, str]


class MMVPJudging:
    """MMVP: the judge says yes or no to each answer. Words: ``MMVP/gpt_grader.py``."""

    def wording(self, folder: DataFolder) -> dict[str, str]:
        script = Script(folder.path("MMVP/gpt_grader.py", "MMVP/scripts/gpt_grader.py"))
        return {"system": script.system(), "text": script.template("question4gpt")}

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        def chain(one: Sample) -> Chain:
            text = wording["text"].format(
                question=f"{one.question} {one.extra['raw_options']}",
                correct_answer=one.extra["raw_answer"],
                model_response=answers[one.id],
            )
            return [query(text, wording["system"], temperature=0.2)]

        return {one.id: [chain(one)] for one in samples}

    def read(self, reply: str) -> bool | None:
        found = re.match(r"(yes|no)$", reply, re.IGNORECASE)
        return None if found is None else found[1].lower() == "yes"


class HRBenchJudging:
    """HR-Bench: the judge says whether an answer is right. Words: ``hrbench/hrbench.py``."""

    def wording(self, folder: DataFolder) -> dict[str, str]:
        script = Script(folder.path("hrbench/hrbench.py", "hrbench.py"))
        return {
            "question": script.template("prompt", "build_prompt"),
            "content": script.template("content", "build_prompt"),
            "whole": script.template("inp", "pipeline_eval"),
        }

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        def chain(one: Sample) -> Chain:
            lines = "".join(f"{letter}. {text}\n" for letter, text in one.options.items())
            prompt = wording["question"].format(
                question=one.question, options_prompt=f"Options:\n{lines}"
            )
            content = wording["content"].format(
                prompt=prompt,
                ground_truth=f"{one.answer}. {one.options[one.answer]}",
                prediction=answers[one.id],
            )
            text = wording["whole"].format(prompt=content)
            return [query(text, temperature=0.2, top_p=0.8)]

        return {one.id: [chain(one)] for one in samples}

    def read(self, reply: str) -> bool | None:
        found = re.match("yes|no", reply.lower())
        return None if found is None else found[0] == "yes"


class HallusionJudging:
    """HallusionBench: whether an answer is right, and whether it agrees with that about figure 0.

    Words: ``hallusion_bench/utils.py``. The first reply says the one, the second the other.
    """

    words = ("correct", "unclear", "same", "different")

    def wording(self, folder: DataFolder) -> dict[str, str]:
        script = Script(folder.path("hallusion_bench/utils.py"))
        return {
            "correct": script.template("prompt", "evaluate_by_chatgpt"),
            "same": script.template("prompt", "check_same_by_chatgpt"),
        }

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        keys = ("category", "subcategory", "set_id", "question_id")
        pairs = {one.id: tuple(one.extra[key] for key in keys) for one in samples}
        first = {pairs[one.id]: one.id for one in samples if one.extra["figure_id"] == "0"}
        found: Chains = {}
        for one in samples:
            text = wording["correct"].format(
                sample_question=one.question,
                sample_gt_answer_details=one.extra["gt_answer_details"],
                sample_output_entry=answers[one.id],
            )
            found[one.id] = [[query(text)]]
            if pairs[one.id] in first:
                text = wording["same"].format(
                    sample_output_entry=answers[one.id], response2=answers[first[pairs[one.id]]]
                )
                found[one.id].append([query(text)])
        return found

    def read(self, reply: str) -> str | None:
        """The reply in lower case, if it has one of the words that the judge is to say."""
        said = reply.lower()
        return said if any(word in said for word in self.words) else None


class LlavaBenchJudging:
    """LLaVA-Bench: two scores of each answer, of the reference first.

    Words: ``rule.json`` and ``eval_gpt_review_bench.py`` in ``llava-bench-in-the-wild``.
    """

    folder = "llava-bench-in-the-wild"

    def wording(self, folder: DataFolder) -> dict[str, str]:
        script = Script(folder.path(f"{self.folder}/eval_gpt_review_bench.py"))
        rules = folder.plain(f"{self.folder}/rule.json")
        return {
            "system": script.system(),
            "content": script.template("content"),
            "rules": json.dumps(rules, sort_keys=True, ensure_ascii=False),
        }

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        rules = json.loads(wording["rules"])

        def chain(one: Sample) -> Chain:
            name = f"llava_bench_{one.categories['category']}"
            if name not in rules:
                raise ValueError(f"rule.json must have the category {name}, it has none")
            text = wording["content"].format(
                cap_str=one.extra["caption"],
                ques_text=one.question,
                ans1_text=one.extra["reference"],
                ans2_text=answers[one.id],
                **rules[name],
            )
            return [query(text, wording["system"], temperature=0.2, max_tokens=1024)]

        return {one.id: [chain(one)] for one in samples}

    def read(self, reply: str) -> tuple[float, float] | None:
        found = parse_review(reply)
        return None if found == UNREAD else found


class TouchStoneJudging:
    """TouchStone: two rounds of two scores, with the answers swapped. Words: ``touchstone/eval.py``."""

    def wording(self, folder: DataFolder) -> dict[str, str]:
        words: dict[str, Any] = Script(folder.path("touchstone/eval.py")).constant("prompt_dic")
        return {
            "system": words["system_prompt"],
            "template": words["prompt_template"],
            "prompt": words["defaults"]["prompt"],
        }

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        def chain(one: Sample, first: str, second: str) -> Chain:
            text = wording["template"].format(
                human_annotation=one.extra["human_annotation"],
                question=one.question,
                answer_1=first,
                answer_2=second,
                prompt=wording["prompt"],
            )
            return [query(text, wording["system"], temperature=0, stop=["\n"])]

        found: Chains = {}
        for one in samples:
            reference, given = str(one.extra["gpt4_ha_answer"]), answers[one.id]
            found[one.id] = [chain(one, reference, given), chain(one, given, reference)]
        return found

    def read(self, reply: str) -> tuple[float, float] | None:
        return parse_reply(reply)


class MMVetJudging:
    """MM-Vet: a score from 0 to 1. Words: ``mm-vet/mm-vet_evaluator.py``.

    Args:
        retry: what is added to a query whose reply cannot be read; it is sent with rising temperature.
    """

    def __init__(self, retry: str) -> None:
        self.retry = retry

    def wording(self, folder: DataFolder) -> dict[str, str]:
        script = Script(folder.path("mm-vet/mm-vet_evaluator.py"))
        return {"prompt": script.constant("prompt"), "retry": self.retry}

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        def chain(one: Sample) -> Chain:
            truth = one.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
            text = f"{wording['prompt']}\n{one.question} | {truth} | {answers[one.id]} | "
            again = [
                query(text + wording["retry"], temperature=heat, max_tokens=3)
                for heat in (0.0, 0.5, 1.0, 1.5)
            ]
            return [query(text, temperature=0.0, max_tokens=3), *again]

        return {one.id: [chain(one)] for one in samples}

    def read(self, reply: str) -> float | None:
        try:
            score = float(reply.split(" ")[0].strip())
        except ValueError:
            return None
        return score if 0 <= score <= 1 else None


class MathVistaJudging:
    """MathVista: the judge extracts what the quick rules cannot. Words: ``mathvista/ext_ans.py``."""

    def wording(self, folder: DataFolder) -> dict[str, str]:
        script = Script(folder.path("mathvista/ext_ans.py"))
        return {"examples": str(script.constant("demo_prompt")).strip()}

    def chains(
        self, wording: Words, samples: Sequence[Sample], answers: Mapping[str, str]
    ) -> Chains:
        found: Chains = {}
        for one in samples:
            if quick_extraction(answers[one.id], problem_of(one)) is None:
                asked = f"{one.question}\n\n{answers[one.id]}"
                text = f"{wording['examples']}\n\n{asked}\n\nExtracted answer: "
                found[one.id] = [[query(text, temperature=0, max_tokens=1024)]]
        return found

    def read(self, reply: str) -> str | None:
        return reply if reply.strip() else None
