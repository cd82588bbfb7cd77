"""The tool that trains refusals: its batches, its attention, what learns."""

import random
from itertools import islice
from pathlib import Path

import pytest
import torch
import train_refusals
from shared_attention import positions_of, rows_of, use_shared_attention
from train_refusals import Asked, answer_losses, groups

from hdvl.checkpoints import load_folder
from hdvl.checkpoints.sources import ASSETS
from hdvl.data.synthetic import SyntheticDocuments
from hdvl.data.synthetic.questions import refusal
from hdvl.inference.load import load
from hdvl.llms.segments import segment_options
from hdvl.model import VLM
from hdvl.training.step_loss import batch_loss


@pytest.fixture
def vlm() -> VLM:
    return load(ASSETS / "small").model


def small_pages(vlm: VLM) -> Asked:
    """Forms of one size, and questions for something absent beside every field."""
    data = Asked(vlm, 1, own=1.0, pages=0.0, budget=1)
    form = SyntheticDocuments(seed=5, kinds="form", width=(320, 320), height=(256, 256))[2]
    data.document = lambda rng, whole: form  # type: ignore[method-assign]
    return data


def test_answers_are_values_boxes_and_refusals(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_refusals, "ABSENT", 1.0)
    batch = small_pages(vlm)[0]
    text = vlm.llm.tokenizer.decode(batch.labels[0][batch.labels[0] >= 0])
    form = SyntheticDocuments(seed=5, kinds="form", width=(320, 320), height=(256, 256))[2]
    assert all(field.value in text for field in form.fields)
    assert "<loc_" in text and refusal(form.language) in text


def test_a_picture_is_asked_for_what_it_does_not_show(vlm: VLM) -> None:
    data = Asked(vlm, 1, own=0.0, pages=0.0, budget=1)
    picture = SyntheticDocuments(seed=1, kinds="picture", width=(224, 224), height=(224, 224))[0]
    answers = {turns[1].text for turns in data.ask(picture, random.Random(1))}
    assert answers == {refusal(picture.language)}


def test_the_share_of_the_older_kinds_is_the_one_asked_for(vlm: VLM) -> None:
    rng, kinds = random.Random(3), list[str]()
    for own in (1.0, 0.0):
        data = Asked(vlm, 1, own=own, pages=0.0, budget=1)
        drawn = (data.document(rng, whole=False) for _ in range(10))
        kinds.append(str({document.kind in train_refusals.OWN for document in islice(drawn, 10)}))
    assert kinds == ["{True}", "{False}"]


def test_attention_of_questions_at_once_is_that_of_each(vlm: VLM) -> None:
    inner, segments = vlm.llm.model, ((7, 3, 5), (4, 2, 1, 2))
    rows = torch.randn(1, 24, vlm.llm.width)
    options = segment_options(inner, rows, segments)
    assert torch.equal(positions_of(segments)[None], options["position_ids"])
    with torch.no_grad():
        each = inner.model(inputs_embeds=rows, use_cache=False, **options).last_hidden_state
        use_shared_attention(inner)
        places = {"position_ids": options["position_ids"], "rows": rows_of(segments)}
        at_once = inner.model(inputs_embeds=rows, use_cache=False, **places).last_hidden_state
    torch.testing.assert_close(each, at_once, atol=1e-4, rtol=1e-4)
    with pytest.raises(
        ValueError, match="must be a prefix with its questions, got one of 5 tokens"
    ):
        rows_of((5,))


def test_long_prefixes_are_read_without_gradients(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_shared_attention(vlm.llm.model)
    segments, slopes = ((7, 3, 5),), list[torch.Tensor]()
    for most in (7, 6):
        monkeypatch.setattr("shared_attention.LONG", most)
        rows = torch.randn(1, 15, vlm.llm.width, requires_grad=True)
        places = {"position_ids": positions_of(segments)[None], "rows": rows_of(segments)}
        states = vlm.llm.model.model(inputs_embeds=rows, use_cache=False, **places)
        states.last_hidden_state[0, 7:].pow(3).sum().backward()
        assert rows.grad is not None
        slopes.append(rows.grad[0].abs().sum(-1))
    assert bool((slopes[0] > 0).all())
    assert bool((slopes[1][:7] == 0).all() and (slopes[1][7:] > 0).all())


def test_the_loss_is_that_of_the_training_loop(vlm: VLM) -> None:
    batch = small_pages(vlm)[0]
    with torch.no_grad():
        summed, count = batch_loss(vlm, batch, first_token_weight=train_refusals.FIRST)
        use_shared_attention(vlm.llm.model)
        losses, weights = answer_losses(vlm, batch)
    torch.testing.assert_close(weights.sum(), count)
    torch.testing.assert_close((losses * weights).sum(), summed, rtol=1e-4, atol=1e-3)


def test_all_but_the_encoder_learns_and_upper_layers_faster(vlm: VLM) -> None:
    found = groups(vlm, 1.0, 0.5)
    learning = {id(p) for group in found for p in group["params"]}
    left = {name.split(".")[0] for name, p in vlm.named_parameters() if id(p) not in learning}
    assert left == {"encoder"}
    layers = [group["lr"] for group in found[1 : 1 + len(vlm.llm.model.model.layers)]]
    assert layers == sorted(layers) and layers[0] < layers[-1] == 1.0


@pytest.mark.slow
def test_a_training_leaves_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "refusals"
    options = {"init-from": ASSETS / "small", "out": out, "steps": 2, "batch": 1, "threads": 1}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["train_refusals.py", *words])
    train_refusals.main()
    before, after = (load_folder(folder).state_dict() for folder in (ASSETS / "small", out))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"bridge", "merger", "llm"}
