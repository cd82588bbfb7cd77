"""Sums of weighted cross-entropies: the same for padded rows and for packed segments."""

import pytest
import torch
from torch.nn import functional

from hdvl.loss import IGNORED, summed_loss, supervised, targets, token_weights

# Two samples of 5 and 3 tokens, with 3 and 1 supervised.
ROWS = torch.tensor([[0, -100, 3, 4, 5], [-100, -100, 2, -100, -100]])
ROW = torch.tensor([[0, -100, 3, 4, 5, -100, -100, 2]])
SEGMENTS = (5, 3)


def test_a_position_predicts_the_next_label_of_its_own_sample() -> None:
    assert targets(ROWS, None).tolist() == [[-100, 3, 4, 5, -100], [-100, 2, -100, -100, -100]]
    assert targets(ROW, SEGMENTS).tolist() == [[-100, 3, 4, 5, -100, -100, 2, -100]]
    # The first label of a segment is nobody's target: not that of the segment before.
    assert targets(torch.tensor([[1, 2, 3, 4]]), (2, 2)).tolist() == [[2, -100, 4, -100]]


def test_conversations_that_share_their_beginning_predict_only_their_own() -> None:
    row, segments = torch.tensor([[-100, -100, -100, 3, 4, -100, 6, 7]]), (1, (1, 3, 3))
    wanted = targets(row, segments)
    assert wanted.tolist() == [[-100, -100, 3, 4, -100, 6, 7, -100]]
    weights = token_weights(wanted, segments, "sample")
    assert weights.tolist() == [[0, 0, 0.5, 0.5, 0, 0.5, 0.5, 0]]


@pytest.mark.parametrize(
    ("weighting", "first"), [("token", 1.0), ("sample", 1 / 3), ("sqrt", 3**-0.5)]
)
def test_weights(weighting: str, first: float) -> None:
    packed = token_weights(targets(ROW, SEGMENTS), SEGMENTS, weighting)
    torch.testing.assert_close(packed, torch.tensor([[0, first, first, first, 0, 0, 1.0, 0]]))
    rows = token_weights(targets(ROWS, None), None, weighting)
    torch.testing.assert_close(rows[0], packed[0, :5])
    torch.testing.assert_close(rows[1, :3], packed[0, 5:])


def test_the_first_token_of_an_answer_counts_as_several() -> None:
    # Two conversations; the first has two answers.
    row, segments = torch.tensor([[-100, 1, 2, 3, -100, 5, -100, -100, 8, 9]]), (7, 3)
    wanted = targets(row, segments)
    plain = token_weights(wanted, segments, "token", first_token_weight=3.0)
    assert plain.tolist() == [[3, 1, 1, 0, 3, 0, 0, 3, 1, 0]]
    share = token_weights(wanted, segments, "sample", first_token_weight=3.0)
    torch.testing.assert_close(share, plain / torch.tensor([[8.0] * 7 + [4.0] * 3]))
    root = token_weights(wanted, segments, "sqrt", first_token_weight=3.0)
    torch.testing.assert_close(root, plain / torch.tensor([[8.0] * 7 + [4.0] * 3]).sqrt())
    alone = [
        token_weights(targets(r, None), None, "sqrt", first_token_weight=3.0)
        for r in row.split(segments, dim=1)
    ]
    torch.testing.assert_close(torch.cat(alone, dim=1), root)
    # A row may begin with an answer, and weights below one are shares all the same.
    wanted = torch.tensor([[4, -100], [-100, -100]])
    light = token_weights(wanted, None, "sample", first_token_weight=0.25)
    assert light.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_wrong_weights_of_first_tokens_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="first_token_weight must be a number above 0, got"):
        token_weights(targets(ROW, None), None, "token", first_token_weight=weight)


def test_other_weightings_are_refused(unchecked) -> None:
    with unchecked(), pytest.raises(ValueError, match="weighting must be one of token, sample, sq"):
        token_weights(targets(ROW, None), None, "tokens")


def test_the_sum_is_that_of_the_weighted_cross_entropies() -> None:
    wanted = targets(ROWS, None)
    weights = token_weights(wanted, None, "sample")
    logits = torch.randn(2, 5, 7)
    each = functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none"
    )
    expected = (each * weights.flatten()).sum()
    torch.testing.assert_close(summed_loss(logits, wanted, weights), expected)
    keep = supervised(wanted)
    assert keep.tolist() == [1, 2, 3]
    kept = summed_loss(logits[:, keep], wanted[:, keep], weights[:, keep])
    torch.testing.assert_close(kept, expected)


@pytest.mark.parametrize("positions", [0, 4])
def test_the_loss_of_no_supervised_token_is_zero_with_a_gradient(positions: int) -> None:
    logits = torch.randn(1, positions, 7, requires_grad=True)
    wanted = torch.full((1, positions), IGNORED)
    loss = summed_loss(logits, wanted, torch.zeros(1, positions))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()
