"""A model of hdvl in lmms-eval: ``lmms-eval --model hdvl --model_args checkpoint=DIR --tasks ...``.

lmms-eval finds it by the entry point ``lmms_eval.models``. It is installed in an environment of its own, see
``docs/evaluation.md``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages

from hdvl.conversation import Message
from hdvl.inference import Pipeline
from hdvl.inference.load import load
from hdvl.messages import place_parts


def manifest() -> ModelManifest:
    """The entry point: the name of the model and its class."""
    return ModelManifest(model_id="hdvl", chat_class_path="hdvl.integrations.lmms_eval.HdvlModel")


def messages_of(chat: ChatMessages) -> list[Message]:
    """The turns of a conversation of lmms-eval.

    Raises:
        ValueError: a turn holds video or sound.
    """
    turns = []
    for turn in chat.messages:
        parts, images = list[str | None](), []
        for part in turn.content:
            if part.type == "text":
                parts.append(part.text)
            elif part.type == "image":
                parts.append(None)
                images.append(part.url)
            else:
                raise ValueError(f"hdvl answers questions about images, got {part.type}")
        text, leading = place_parts(parts)
        turns.append(Message(turn.role, text, tuple(images), leading=leading))
    return turns


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of generation for the settings of a task.

    Raises:
        ValueError: the task asks for beam search.
    """
    if int(given.get("num_beams") or 1) != 1:
        raise ValueError(f"hdvl has no beam search, got num_beams={given['num_beams']}")
    until = given.get("until") or ()
    options: dict[str, Any] = {
        "max_new_tokens": int(given.get("max_new_tokens") or 256),
        "stop": [until] if isinstance(until, str) else list(until),
    }
    if float(given.get("temperature") or 0) > 0:
        options |= {"do_sample": True, "temperature": float(given["temperature"])}
        options |= {"top_p": float(given["top_p"])} if given.get("top_p") else {}
    return options


class HdvlModel(lmms):  # type: ignore[misc]
    """A chat model of lmms-eval that answers with a :class:`~hdvl.inference.Pipeline`.

    Args:
        checkpoint: a model folder or a shipped model.
        device: the device, as lmms-eval names it.
        dtype: type of the weights; ``None`` leaves it as stored.
        batch_size: conversations that are answered together.
        **more: further arguments of lmms-eval, of which none may be left.

    Raises:
        ValueError: there is an argument of another name.
    """

    is_simple = False

    def __init__(
        self,
        checkpoint: str = "hdvl/small",
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 8,
        **more: Any,
    ) -> None:
        super().__init__()
        unknown = {name: value for name, value in more.items() if value is not None}
        unknown.pop("max_batch_size", None)
        if unknown:
            known = "checkpoint, device, dtype, batch_size"
            raise ValueError(f"model_args must be of {known}, got {', '.join(unknown)}")
        self.batch_size = int(batch_size)
        self.pipe: Pipeline = load(checkpoint, device=device, dtype=dtype)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer every request, greedily unless its task sets a temperature."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[2].items())), []).append(number)
        found: dict[int, GenerationResult] = {}
        for numbers in groups.values():
            options = options_of(requests[numbers[0]].args[2])
            turns = [self._turns(requests[number]) for number in numbers]
            answers = self.pipe.generate(turns, batch_size=self.batch_size, **options)
            for number, answer in zip(numbers, answers, strict=True):
                counts = TokenCounts(answer.numbers.prompt_tokens, answer.numbers.new_tokens)
                found[number] = GenerationResult(answer.text, counts)
        return [found[number] for number in range(len(requests))]

    def _turns(self, request: Instance) -> list[Message]:
        _, doc_to_messages, _, doc_id, task, split = request.args
        chat = doc_to_messages(self.task_dict[task][split][doc_id])
        return messages_of(ChatMessages(messages=chat))

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered: tasks that rank texts by likelihood are scored by ``hdvl evaluate``."""
        raise NotImplementedError("hdvl answers generate_until; use hdvl evaluate for likelihoods")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered: tasks of several rounds."""
        raise NotImplementedError("hdvl answers generate_until, not tasks of several rounds")
