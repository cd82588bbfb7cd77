"""``hdvl parity``: compares the tensors and the answers of two model folders."""

import sys
from typing import Any

from hdvl.command import command


def run(plain: dict[str, Any]) -> tuple[str, bool]:
    """Compare two folders, and return the report and whether they agree.

    Raises:
        ValueError: a folder that cannot be read, or no folders given.
    """
    absent = [name for name in ("checkpoint", "other") if plain[name] is None]
    if absent:
        raise ValueError(
            f"{' and '.join(absent)} must be given: hdvl parity checkpoint=DIR other=DIR"
        )
    lines, same = _weights(plain)
    if plain["image"] is not None:
        more, answers = _answers(plain)
        lines, same = [*lines, *more], same and answers
    return "\n".join([*lines, "they agree" if same else "they DIFFER"]), same


def _weights(plain: dict[str, Any]) -> tuple[list[str], bool]:
    from hdvl.checkpoints.parity import compare, tensors_in
    from hdvl.checkpoints.sources import find_folder

    first, second = (tensors_in(find_folder(plain[name])) for name in ("checkpoint", "other"))
    found = list(compare(first, second))
    wrong = [item for item in found if item.difference is None or item.difference > plain["atol"]]
    wrong.sort(key=lambda item: -1 if item.difference is None else 1 / (1 + item.difference))
    worst = max((item.difference for item in found if item.difference is not None), default=0.0)
    lines = [
        f"{plain['checkpoint']} ({first.kind}) and {plain['other']} ({second.kind})",
        f"{len(found)} tensors, largest difference {worst:.3g}, {len(wrong)} differ by more than "
        f"{plain['atol']:g}",
    ]
    shown = wrong[: plain["most"]]
    lines += [f"  {item.name}: {item.reason or f'{item.difference:.3g}'}" for item in shown]
    if len(wrong) > len(shown):
        lines.append(f"  and {len(wrong) - len(shown)} more")
    return lines, not wrong


def _answers(plain: dict[str, Any]) -> tuple[list[str], bool]:
    """Compare the ids and logits of the prompts and the greedy answers of both models for each image."""
    import torch

    from hdvl.checkpoints.parity import largest_difference
    from hdvl.inference.load import load
    from hdvl.processor import Processor, collate
    from hdvl.protocols import Message

    pipes = [
        load(plain[name], dtype=plain["dtype"], allow=plain["allow"])
        for name in ("checkpoint", "other")
    ]
    images = plain["image"] if isinstance(plain["image"], list) else [plain["image"]]
    lines, same = list[str](), True
    for image in images:
        messages = [Message("user", plain["prompt"], images=(image,))]
        samples = [Processor.of(p.model)(messages, add_generation_prompt=True) for p in pipes]
        if [s.ids.tolist() for s in samples[:1]] != [s.ids.tolist() for s in samples[1:]]:
            lines, same = [*lines, f"{image}: the prompts have other ids"], False
            continue
        with torch.inference_mode():
            logits = [
                pipe.model(batch.input_ids, batch.pixels, batch.plans).logits
                for pipe, batch in zip(
                    pipes, (collate([s], pad_id=0) for s in samples), strict=True
                )
            ]
        difference = largest_difference(*logits)
        limit = {"max_new_tokens": plain["max_new_tokens"], "do_sample": False}
        texts = [pipe.chat(plain["prompt"], images=[image], **limit).text for pipe in pipes]
        reason = (
            "the same answer" if texts[0] == texts[1] else f"answers {texts[0]!r} and {texts[1]!r}"
        )
        lines.append(f"{image}: largest difference of logits {difference:.3g}, {reason}")
        same = same and difference <= plain["logits_atol"] and texts[0] == texts[1]
    return lines, same


def show(plain: dict[str, Any]) -> None:
    """Print the comparison; exit code 1 if the two differ."""
    text, same = run(plain)
    print(text)
    sys.exit(0 if same else 1)


def main() -> None:
    """Run the command; exit code 1 if the folders differ or one cannot be read."""
    command("parity", show)


if __name__ == "__main__":
    main()
