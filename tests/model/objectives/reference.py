"""The objectives written out: one segment, one position and one vocabulary entry at a time, in float64.

Nothing of the package computes here but the counter-based uniforms; networks are run from the weights by name, segment
by segment, so that there is neither a mask nor a gather.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from electra_ds.model import noise
from electra_ds.model.batch import Batch
from electra_ds.model.config import ModelConfig
from electra_ds.model.masking import select
from electra_ds.model.objectives import build
from tests.model.conftest import SPECIAL, packed_rows

VOCABULARY = 101
TINY = {"layers": 2, "hidden_size": 64, "heads": 2, "intermediate_size": 96, "embedding_size": 24, "dropout": 0.0}


def make(objective, seed=0, **sizes):
    """A float64 module of an objective, with weights large enough to tell errors."""
    torch.manual_seed(seed)
    wide = 1.0 if sizes.get("sharing") == "all_tied" else 0.5
    config = ModelConfig(**{**TINY, "generator_width": wide, "vocab_size": VOCABULARY, **sizes})
    model = build(config, objective, SPECIAL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.double().train()


def batch_of(objective, rows=3, length=128, seed=0, pairs=None, epoch=0, first_row=0):
    """Rows as a run would mask them, scaled so that the losses are means over them."""
    ids, segments, positions, types = packed_rows(rows, length, VOCABULARY, seed)
    keys = noise.row_keys(seed, torch.full((rows,), epoch), torch.arange(first_row, first_row + rows))
    stays, random = objective.fates
    chosen = select(
        ids, segments, keys, SPECIAL, objective.mask_fraction, stays,
        random_token_probability=random, vocab_size=VOCABULARY,
    )  # fmt: skip
    ones = torch.ones(())
    fields = (ids, segments, positions, types, keys, chosen.positions, chosen.valid, chosen.generator_ids)
    batch = Batch(*fields, ones, ones, pair_rows=pairs)
    by_kind = []
    for wanted in (False, True):
        here = [row for row in range(rows) if pairs is None or bool(pairs[row]) == wanted]
        predicted = sum(len(predicted_positions(batch, objective, row)) for row in here)
        by_kind.append((1 / max(predicted, 1), 1 / max(int((segments[here] > 0).sum()), 1)))
    scales = [torch.tensor(scale) for kind in by_kind for scale in kind]
    names = ("generator_scale", "discriminator_scale", "pair_generator_scale", "pair_discriminator_scale")
    return dataclasses.replace(batch, **dict(list(zip(names, scales, strict=True))[: 2 if pairs is None else 4]))


def chosen_positions(batch, row):
    """Selected positions of a row."""
    pairs = zip(batch.selected[row].tolist(), batch.selected_valid[row].tolist(), strict=True)
    return [position for position, valid in pairs if valid]


def predicted_positions(batch, objective, row):
    """Positions of the generator's loss (with mlm, of the only one)."""
    if objective.name != "electric":
        return chosen_positions(batch, row)
    special = {SPECIAL.cls, SPECIAL.sep, SPECIAL.mask, SPECIAL.pad}
    ids, segments = batch.input_ids[row].tolist(), batch.segments[row].tolist()
    return [t for t in range(len(ids)) if segments[t] > 0 and ids[t] not in special]


class Reference:
    """A module's weights as float64 leaves, and what the objective makes of a batch with them."""

    def __init__(self, model):
        self.config, self.objective = model.config, model.objective
        self.leaves = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def dense(self, name, x):
        return x @ self.leaves[f"{name}.weight"].T + self.leaves[f"{name}.bias"]

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + self.config.layer_norm_eps).sqrt()
        return scaled * self.leaves[f"{name}.weight"] + self.leaves[f"{name}.bias"]

    def gelu(self, x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def encode(self, name, heads, x, sees=None):
        """An encoder on one segment's embeddings [n, E]; `sees`: whether position i may look at position j."""
        n = len(x)
        if f"{name}.embeddings_project.weight" in self.leaves:
            x = self.dense(f"{name}.embeddings_project", x)
        layer = 0
        while f"{name}.layers.{layer}.qkv.weight" in self.leaves:
            own = f"{name}.layers.{layer}"
            width = x.shape[1] // heads
            query, key, value = self.dense(f"{own}.qkv", x).split(x.shape[1], 1)
            found = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = query[:, part] @ key[:, part].T / math.sqrt(width)
                if sees is not None:
                    hidden = torch.tensor([[not sees(i, j) for j in range(n)] for i in range(n)])
                    scores = scores.masked_fill(hidden, -torch.inf)
                found.append(scores.softmax(-1) @ value[:, part])
            x = self.norm(f"{own}.attention_norm", x + self.dense(f"{own}.attention_output", torch.cat(found, 1)))
            expanded = self.gelu(self.dense(f"{own}.intermediate", x))
            x = self.norm(f"{own}.output_norm", x + self.dense(f"{own}.output", expanded))
            layer += 1
        return x

    def look_up(self, name, ids):
        """Rows of a matrix; [PAD], which a generator may draw, gets no gradient from look-ups."""
        rows = self.leaves[name][ids]
        return torch.where((ids == SPECIAL.pad)[:, None], rows.detach(), rows)

    def embed(self, ids, positions, types, full_size):
        """Embeddings [n, E] that the generator or the full-size network reads."""
        sharing, leaves, prefix = self.config.sharing, self.leaves, "embeddings"
        word, position = self.look_up("embeddings.word.weight", ids), leaves["embeddings.position.weight"][positions]
        if full_size and sharing == "untied":
            prefix = "discriminator_embeddings"
            word, position = self.look_up(f"{prefix}.word.weight", ids), leaves[f"{prefix}.position.weight"][positions]
        elif full_size and sharing == "gdes":
            prefix = "discriminator_embeddings"
            word = word.detach() + self.look_up(f"{prefix}.word_delta.weight", ids)
            position = position.detach() + leaves[f"{prefix}.position_delta.weight"][positions]
        return self.norm(f"{prefix}.norm", word + position + leaves[f"{prefix}.token_type.weight"][types])

    def log_probabilities(self, head, state, full_size):
        """Over the vocabulary without padding, [V], from one state [F]."""
        x = self.norm(f"{head}.norm", self.gelu(self.dense(f"{head}.dense", state)))
        matrix = self.leaves["embeddings.word.weight"]
        if full_size and self.config.sharing == "untied":
            matrix = self.leaves["discriminator_embeddings.word.weight"]
        elif full_size and self.config.sharing == "gdes":
            delta = self.leaves["discriminator_embeddings.word_delta.weight"]
            padding = torch.arange(len(delta))[:, None] == SPECIAL.pad  # whose difference stays what it is
            matrix = matrix.detach() + torch.where(padding, delta.detach(), delta)
        logits = (matrix @ x + self.leaves[f"{head}.bias"])[: self.config.vocab_size]
        return logits.log_softmax(-1)

    def draw(self, log_probabilities, original, uniform):
        """The token in whose share of the line from 0 to 1 the uniform falls."""
        scores = log_probabilities.detach() / self.objective.temperature
        powers = scores.exp()
        if self.objective.disallow_correct:
            powers[original] = 0.0
        shares, reached = (powers / powers.sum()).tolist(), 0.0
        for token, share in enumerate(shares):
            reached += share
            if uniform < reached:
                return token
        raise AssertionError(reached)

    def segments(self, batch, row):
        """Positions of each segment of a row."""
        found = batch.segments[row].tolist()
        return [[t for t, n in enumerate(found) if n == number] for number in range(1, max(found) + 1)]

    def full_size_states(self, batch, row, here, ids):
        name = "generator" if self.config.sharing == "all_tied" else "discriminator"
        embedded = self.embed(ids[here], batch.positions[row][here], batch.token_types[row][here], True)
        return self.encode(name, self.config.heads, embedded)

    def row(self, batch, row):
        """Sums of a row's losses, generator's and full-size network's; corrupted ids, and verdicts' logits."""
        name, ids = self.objective.name, batch.input_ids[row]
        selected = chosen_positions(batch, row)
        generator = own = torch.zeros((), dtype=torch.float64)
        corrupted, logits = ids.clone(), torch.zeros(len(ids), dtype=torch.float64)
        log_q = torch.zeros(len(ids), dtype=torch.float64)
        uniforms = noise.uniform(batch.keys[row], torch.arange(len(ids)), noise.SAMPLE).double().tolist()
        for here in self.segments(batch, row) if name != "mlm" else ():
            for t, distribution in self.cloze(batch, row, here):
                original = int(ids[t])
                if t in predicted_positions(batch, self.objective, row):
                    generator = generator - distribution[original]
                if t in selected:
                    corrupted[t] = self.draw(distribution, original, uniforms[t])
                log_q[t] = (distribution.detach() / self.objective.temperature).log_softmax(-1)[corrupted[t]]
        text = batch.generator_ids[row] if name == "mlm" else corrupted
        for here in self.segments(batch, row):
            states = self.full_size_states(batch, row, here, text)
            for t, state in zip(here, states, strict=True):
                if name in ("mlm", "replace_mlm"):
                    if t in selected:
                        own = own - self.log_probabilities("vocabulary_head", state, True)[ids[t]]
                elif name == "all_tokens_mlm":
                    gate = self.dense("vocabulary_head.copy_gate", state)[0].sigmoid()
                    filled = self.log_probabilities("vocabulary_head", state, True).exp()[ids[t]]
                    own = own - (gate * float(corrupted[t] == ids[t]) + (1 - gate) * filled).log()
                else:
                    verdict = self.dense(
                        "discriminator_head.prediction", self.gelu(self.dense("discriminator_head.dense", state))
                    )[0]
                    label = float(corrupted[t] != ids[t])
                    if name == "electric":
                        share = self.objective.mask_fraction
                        verdict = verdict + log_q[t] + math.log(share / (1 - share))
                        label = float(t in selected)
                    logits[t] = verdict.detach()
                    if name != "electra_15" or t in selected:
                        chance = verdict.sigmoid()
                        own = own - (label * chance.log() + (1 - label) * (1 - chance).log())
        return generator, own, corrupted, logits

    def cloze(self, batch, row, here):
        """(position, log probabilities) of the generator, where it says something."""
        positions, types = batch.positions[row][here], batch.token_types[row][here]
        heads = self.config.generator_heads
        if self.objective.name != "electric":
            embedded = self.embed(batch.generator_ids[row][here], positions, types, False)
            states = self.encode("generator", heads, embedded)
            wanted = chosen_positions(batch, row)
            for t, state in zip(here, states, strict=True):
                if t in wanted:
                    yield t, self.log_probabilities("generator_head", state, False)
            return
        embedded = self.embed(batch.input_ids[row][here], positions, types, False)
        left = self.encode("generator.forwards", heads, embedded, lambda i, j: j <= i)
        right = self.encode("generator.backwards", heads, embedded, lambda i, j: j >= i)
        nothing = torch.zeros_like(left[0])
        for place, t in enumerate(here):
            before = left[place - 1] if place else nothing
            after = right[place + 1] if place + 1 < len(here) else nothing
            yield t, self.log_probabilities("generator_head", torch.cat([before, after]), False)

    def step(self, batch):
        """Loss of the batch as the mean of each kind of row, corrupted ids [B, L] and logits [B, L]."""
        objective, rows = self.objective, range(len(batch.input_ids))
        made = [self.row(batch, row) for row in rows]
        loss = torch.zeros((), dtype=torch.float64)
        for pairs in (False, True):
            kind = [r for r in rows if (batch.pair_rows is not None and bool(batch.pair_rows[r])) == pairs]
            if not kind:
                continue
            predicted = sum(len(predicted_positions(batch, objective, r)) for r in kind)
            real = sum(int((batch.segments[r] > 0).sum()) for r in kind)
            over = predicted if objective.name in ("mlm", "replace_mlm") else real
            weight = objective.discriminator_weight
            if objective.name in ("mlm", "replace_mlm", "all_tokens_mlm"):
                weight = objective.vocabulary_weight
            loss = loss + objective.generator_weight * sum(made[r][0] for r in kind) / predicted
            loss = loss + weight * sum(made[r][1] for r in kind) / over
        return loss, torch.stack([m[2] for m in made]), torch.stack([m[3] for m in made])
