"""The heads of Google's fine-tuning code (google-research/electra, finetune/), where `transformers` has others.

A model saved with one of them loads by these classes, not by the stock ones; its encoder loads anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import ElectraModel, ElectraPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

WIDTH = 512
"""Width of the hidden layers of the question answering head."""
ANSWERABILITY_WEIGHT = 0.5
"""Weight of the loss of the answerability classifier."""
_LOW = -1e4


class ElectraForLinearClassification(ElectraPreTrainedModel):
    """[CLS], dropout, one linear layer (finetune/classification/classification_tasks.py); also regression."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Compute logits (batch, labels) and, with `labels`, the mean loss."""
        kwargs.pop("num_items_in_batch", None)
        states = self.electra(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        logits = self.classifier(self.dropout(states[:, 0]))
        loss = None
        if labels is not None and self.config.num_labels == 1:
            loss = functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        elif labels is not None:
            loss = functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@dataclass
class JointAnswerOutput(ModelOutput):
    """What the joint head says: a loss in training, a beam else."""

    loss: torch.Tensor | None = None
    """Scalar."""
    start_log_probs: torch.Tensor | None = None
    """(windows, k) of the k best starts."""
    start_index: torch.Tensor | None = None
    """(windows, k), their positions."""
    end_log_probs: torch.Tensor | None = None
    """(windows, k, k) of the k best ends of each start."""
    end_index: torch.Tensor | None = None
    """(windows, k, k), their positions."""
    answerability: torch.Tensor | None = None
    """(windows,), the logit of having no answer; None without the classifier."""


class ElectraForJointQuestionAnswering(ElectraPreTrainedModel):
    """Start and end predicted jointly, and whether there is an answer (finetune/qa/qa_tasks.py).

    start = linear(h); end = linear(GELU(dense([h; h_start]))), the right start in training, each of a beam at test;
    no answer = linear(GELU(dense([h_CLS; sum of p_start h]))). The config's ``beam`` is k, ``answerability`` says
    whether there is the classifier.
    """

    def __init__(self, config: Any):
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.start = nn.Linear(config.hidden_size, 1)
        self.end_dense = nn.Linear(2 * config.hidden_size, WIDTH)
        self.end = nn.Linear(WIDTH, 1)
        if config.answerability:
            self.answerability_dense = nn.Linear(2 * config.hidden_size, WIDTH)
            self.answerability = nn.Linear(WIDTH, 1)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        impossible: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> JointAnswerOutput:
        """Compute the loss where positions (windows,) are given, else the beam; ids are (windows, length)."""
        assert attention_mask is not None and token_type_ids is not None
        states = self.electra(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0].float()
        allowed = (attention_mask * token_type_ids).bool()
        allowed[:, 0] = True  # [CLS] stands for no answer
        start = self.start(states).squeeze(-1).masked_fill(~allowed, _LOW)
        answerability = self._answerability(states, start) if self.config.answerability else None
        if start_positions is not None:
            assert end_positions is not None
            rows = torch.arange(len(states), device=states.device)
            end = self._end(states, states[rows, start_positions][:, None], allowed).squeeze(1)
            loss = (functional.cross_entropy(start, start_positions) + functional.cross_entropy(end, end_positions)) / 2
            if answerability is not None:
                assert impossible is not None
                loss = loss + ANSWERABILITY_WEIGHT * functional.binary_cross_entropy_with_logits(
                    answerability, impossible.to(answerability.dtype)
                )
            return JointAnswerOutput(loss=loss)
        k = self.config.beam
        start_log_probs, start_index = _top(start.log_softmax(-1), k)
        chosen = states.gather(1, start_index[..., None].expand(-1, -1, states.shape[-1]))
        end_log_probs, end_index = _top(self._end(states, chosen, allowed).log_softmax(-1), k)
        return JointAnswerOutput(
            start_log_probs=start_log_probs,
            start_index=start_index,
            end_log_probs=end_log_probs,
            end_index=end_index,
            answerability=answerability,
        )

    def _end(self, states: torch.Tensor, starts: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Logits (windows, k, length) of the end for each of k start states (windows, k, hidden)."""
        # dense([h; s]) = W_h h + W_s s: the pairs of k starts and all positions are never laid out at full width twice.
        from_state, from_start = self.end_dense.weight.split(states.shape[-1], dim=1)
        hidden = functional.linear(states, from_state, self.end_dense.bias)[:, None]
        hidden = functional.gelu(hidden + functional.linear(starts, from_start)[:, :, None])
        logits: torch.Tensor = self.end(hidden).squeeze(-1)
        return logits.masked_fill(~allowed[:, None], _LOW)

    def _answerability(self, states: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        summed = torch.einsum("bl,blh->bh", start.softmax(-1), states)
        hidden = functional.gelu(self.answerability_dense(torch.cat([states[:, 0], summed], dim=-1)))
        logits: torch.Tensor = self.answerability(hidden).squeeze(-1)
        return logits


def _top(log_probs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best of the last dimension; where it is shorter, filled up with position 0 at a very low value."""
    values, index = log_probs.topk(min(k, log_probs.shape[-1]), dim=-1)
    missing = k - values.shape[-1]
    return functional.pad(values, (0, missing), value=_LOW), functional.pad(index, (0, missing), value=0)
