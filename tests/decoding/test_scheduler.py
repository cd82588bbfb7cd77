"""Sequences that join and leave a batch at any time give the same answers as alone, in every family."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hdvl.decoding import EmbeddedPrompt, Sampler, SamplingParams, Scheduler, Sequence, generate
from hdvl.decoding.slots import OwnCaches
from tests.decoding.families import FAMILIES, make, recomputed

QUICK = ("qwen3", "mistral", "gemma3_text")
LENGTHS = (5, 17, 3, 11)


def sequence(prompt: Tensor, **options: Any) -> Sequence:
    options.setdefault("max_new_tokens", 10)
    return Sequence(EmbeddedPrompt(prompt), Sampler(SamplingParams.of(**options)))


@pytest.mark.slow_beyond(1)
@pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_a_batch_gives_the_answers_of_each_sequence_alone(family: str) -> None:
    llm = make(family)
    prompts = [torch.randn(length, llm.width) for length in LENGTHS]
    counts = (10, 4, 12, 8)
    wanted = [recomputed(llm, *one) for one in zip(prompts, counts, strict=True)]
    assert len({ids[0] for ids in wanted} | {ids[1] for ids in wanted}) > 3
    for chunk, slots in ((2048, 8), (4, 2)):
        scheduler = Scheduler(llm, max_slots=slots, prefill_chunk=chunk)
        made = []
        for prompt, count in zip(prompts, counts, strict=True):  # one joins at each second step
            made.append(sequence(prompt, max_new_tokens=count))
            scheduler.add(made[-1])
            scheduler.step()
            scheduler.step()
        scheduler.run()
        assert [one.error for one in made] == [None] * 4
        assert [one.ids for one in made] == wanted
        assert {one.finish_reason for one in made} == {"length"}
        assert scheduler.idle and scheduler.active == 0


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_a_prompt_whose_short_end_is_read_after_another_sequence_has_finished(family: str) -> None:
    llm = make(family)
    prompts = [torch.randn(length, llm.width) for length in (10, 10, 130)]
    counts = (2, 20, 8)
    scheduler = Scheduler(llm, prefill_chunk=100)
    made = [
        sequence(prompt, max_new_tokens=count)
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    for one in made:
        scheduler.add(one)
    scheduler.step()  # reads 80 of the last prompt, and the first sequence finishes
    assert [one.done for one in made] == [True, False, False] and scheduler.active == 2
    scheduler.run()
    wanted = [recomputed(llm, *one) for one in zip(prompts, counts, strict=True)]
    assert [one.ids for one in made] == wanted


def test_a_model_without_slots_reads_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    llm = make("bloom")
    scheduler = Scheduler(llm)
    assert isinstance(scheduler.slots, OwnCaches)
    prompts = [torch.randn(length, llm.width) for length in (3, 6)]
    made = [sequence(prompt, max_new_tokens=5) for prompt in prompts]
    for one in made:
        scheduler.add(one)
    scheduler.run()
    assert [one.ids for one in made] == [recomputed(llm, prompt, 5) for prompt in prompts]


def test_sequences_wait_for_room() -> None:
    llm = make("llama")
    scheduler = Scheduler(llm, max_tokens=64)
    made = [sequence(torch.randn(30, llm.width)) for _ in range(3)]
    made.append(sequence(torch.randn(60, llm.width)))  # and 10 new ids: never fits
    for one in made:
        scheduler.add(one)
    most = 0
    while scheduler.step():
        most = max(most, scheduler.active)
    assert most == 1 and [len(one.ids) for one in made] == [10, 10, 10, 0]
    assert made[-1].finish_reason == "error"
    assert "must fit the 64 positions of the engine's cache, got 60 and up to 10" in str(
        made[-1].error
    )


def test_prompts_must_leave_room_in_the_context() -> None:
    llm = make("llama")
    scheduler = Scheduler(llm)
    made = [sequence(torch.randn(length, llm.width)) for length in (256, 253)]
    for one in made:
        scheduler.add(one)
    scheduler.run()
    assert "a prompt must leave room in the context" in str(made[0].error)
    assert made[1].finish_reason == "length" and len(made[1].ids) == 3


def test_cancelled_sequences_leave() -> None:
    llm = make("llama")
    scheduler = Scheduler(llm, max_slots=2)
    prompts = [torch.randn(4, llm.width) for _ in range(3)]
    made = [sequence(prompt, max_new_tokens=20) for prompt in prompts]
    for one in made:
        scheduler.add(one)
    for _ in range(3):
        scheduler.step()
    made[0].cancelled = True
    scheduler.run()
    assert made[0].finish_reason == "cancelled" and len(made[0].ids) < 5
    assert [one.ids for one in made[1:]] == [recomputed(llm, p, 20) for p in prompts[1:]]


def test_an_error_ends_its_own_sequence_alone() -> None:
    llm = make("llama")
    scheduler = Scheduler(llm)
    prompts = [torch.randn(4, llm.width), torch.randn(4, llm.width + 1)]
    made = [sequence(prompts[0]), sequence(prompts[1])]
    made.append(sequence(prompts[0], logit_bias={300: 1.0}))
    for one in made:
        scheduler.add(one)
    scheduler.run()
    assert made[0].ids == recomputed(llm, prompts[0], 10)
    assert made[1].finish_reason == "error" and isinstance(
        made[1].error,
        (RuntimeError, ValueError),  # torch and numpy, for a row of another width
    )
    assert "ids of logit_bias must be below the 300 rows" in str(made[2].error)


def test_the_same_request_gives_the_same_ids_in_any_batch() -> None:
    llm = make("qwen2")
    prompt, others = torch.randn(6, llm.width), torch.randn(3, 9, llm.width)
    options: dict[str, Any] = {"temperature": 1.5, "top_p": 0.95, "min_p": 0.01, "seed": 7}
    alone = generate(llm, prompt[None], max_new_tokens=12, stop_ids=[], **options)[0].tolist()
    scheduler = Scheduler(llm)
    for other in others:
        scheduler.add(sequence(other, temperature=1.0))
    scheduler.step()
    own = sequence(prompt, max_new_tokens=12, **options)
    scheduler.add(own)
    scheduler.run()
    assert own.ids == alone != recomputed(llm, prompt, 12)


def test_numbers_out_of_range_are_named() -> None:
    llm = make("llama")
    for name in ("max_slots", "prefill_chunk", "max_tokens"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            Scheduler(llm, **{name: 0})
    with pytest.raises(ValueError, match="bytes of the prefix cache must be at least 0, got -1"):
        Scheduler(llm, prefix_cache_bytes=-1)


class Known(EmbeddedPrompt):
    """A prompt whose positions are known by numbers."""

    def __init__(self, embeddings: Tensor, names: list[int]) -> None:
        super().__init__(embeddings)
        self.keys = np.stack([np.array(names), np.zeros(len(names), np.int64)], 1)


def test_positions_that_all_prompts_begin_with_are_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = make("qwen3")
    common = torch.randn(80, llm.width)
    prompts = [torch.cat([common, torch.randn(length, llm.width)]) for length in (2, 5, 9)]
    scheduler = Scheduler(llm)
    decode, seen = scheduler.slots.decode, list[int]()

    def spied(embeddings: Tensor, lengths: list[int], shared: int = 0) -> Tensor:
        seen.append(shared)
        return decode(embeddings, lengths, shared)

    monkeypatch.setattr(scheduler.slots, "decode", spied)
    made = []
    for index, prompt in enumerate(prompts):
        names = [*range(80), *(100 * (index + 1) + place for place in range(len(prompt) - 80))]
        sampler = Sampler(SamplingParams(max_new_tokens=4 + 2 * index))
        made.append(Sequence(Known(prompt, names), sampler))
        scheduler.add(made[-1])
    scheduler.run()
    assert [one.ids for one in made] == [
        recomputed(llm, prompt, 4 + 2 * index) for index, prompt in enumerate(prompts)
    ]
    assert seen == [80] * 5 + [0] * 2  # the last sequence is alone for its last ids
