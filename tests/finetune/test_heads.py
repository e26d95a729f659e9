"""The heads of Google's code, against their formulas written out plainly."""

import pytest
import torch
from torch.nn import functional
from transformers import ElectraConfig, ElectraModel

from electra_ds.finetune.heads import ElectraForJointQuestionAnswering, ElectraForLinearClassification

SHAPE = {
    "vocab_size": 20, "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "initializer_range": 0.5,
}  # fmt: skip


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {
        "input_ids": torch.randint(5, 20, (2, 9)),
        "attention_mask": torch.tensor([[1] * 9, [1] * 7 + [0] * 2]),
        "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0, 0]]),
    }


def head(answerability, beam=4):
    torch.manual_seed(1)
    return ElectraForJointQuestionAnswering(ElectraConfig(answerability=answerability, beam=beam, **SHAPE)).eval()


def plain_end_logits(model, states, start, allowed):
    """linear(GELU(dense([h; h_start]))) of one window, position by position."""
    logits = []
    for position in range(len(states)):
        hidden = functional.gelu(model.end_dense(torch.cat([states[position], states[start]])))
        logits.append(model.end(hidden)[0] if allowed[position] else torch.tensor(-1e4))
    return torch.stack(logits)


def test_loss_is_the_mean_of_start_and_end_and_half_that_of_answerability(batch):
    model = head(answerability=True)
    starts, ends, impossible = torch.tensor([4, 0]), torch.tensor([6, 0]), torch.tensor([0.0, 1.0])
    loss = model(**batch, start_positions=starts, end_positions=ends, impossible=impossible).loss
    states = model.electra(**batch)[0]
    expected = []
    for row in range(2):
        allowed = [
            bool(m and t) or i == 0
            for i, (m, t) in enumerate(zip(batch["attention_mask"][row], batch["token_type_ids"][row], strict=True))
        ]
        start = torch.stack(
            [model.start(h)[0] if ok else torch.tensor(-1e4) for h, ok in zip(states[row], allowed, strict=True)]
        )
        end = plain_end_logits(model, states[row], int(starts[row]), allowed)
        summed = sum(p * h for p, h in zip(start.softmax(-1), states[row], strict=True))
        none = model.answerability(functional.gelu(model.answerability_dense(torch.cat([states[row, 0], summed]))))[0]
        spans = -start.log_softmax(-1)[starts[row]] / 2 - end.log_softmax(-1)[ends[row]] / 2
        expected.append(spans + 0.5 * functional.binary_cross_entropy_with_logits(none, impossible[row]))
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)


def test_beam_holds_the_best_starts_and_for_each_its_best_ends(batch):
    model = head(answerability=False)
    found = model(**batch)
    assert found.answerability is None
    states = model.electra(**batch)[0]
    allowed = [True, *[False] * 2, *[True] * 6]
    start = torch.stack(
        [model.start(h)[0] if ok else torch.tensor(-1e4) for h, ok in zip(states[0], allowed, strict=True)]
    )
    best = start.log_softmax(-1).topk(4)
    torch.testing.assert_close(found.start_index[0], best.indices)
    torch.testing.assert_close(found.start_log_probs[0], best.values)
    for place, index in enumerate(best.indices.tolist()):
        ends = plain_end_logits(model, states[0], index, allowed).log_softmax(-1).topk(4)
        torch.testing.assert_close(found.end_log_probs[0, place], ends.values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.end_index[0, place], ends.indices)


def test_a_beam_wider_than_the_window_is_filled_up(batch):
    found = head(answerability=True, beam=20)(**batch)
    assert found.start_index.shape == (2, 20) and found.end_index.shape == (2, 20, 20)
    assert (found.start_log_probs[:, 9:] == -1e4).all()


def test_linear_classifier_is_one_layer_on_cls(batch):
    model = ElectraForLinearClassification(ElectraConfig(num_labels=3, **SHAPE)).eval()
    logits = model(**batch).logits
    torch.testing.assert_close(logits, model.classifier(model.electra(**batch)[0][:, 0]))
    labels = torch.tensor([2, 0])
    torch.testing.assert_close(model(**batch, labels=labels).loss, functional.cross_entropy(logits, labels))
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"electra", "classifier"}


def test_saved_heads_load_again_and_their_encoder_in_stock_transformers(batch, tmp_path):
    model = head(answerability=True)
    model.save_pretrained(tmp_path)
    again = ElectraForJointQuestionAnswering.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch).end_log_probs, model(**batch).end_log_probs)
    encoder = ElectraModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(encoder(**batch)[0], model.electra(**batch)[0])
