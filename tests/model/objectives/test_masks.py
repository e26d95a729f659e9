"""The masked texts of the MLM baselines: shares, and draws that depend on seed, epoch, row and position alone."""

import pytest
import torch

from electra_ds.model import noise
from electra_ds.model.config import ObjectiveConfig
from electra_ds.model.masking import select
from tests.model.conftest import SPECIAL
from tests.model.objectives.reference import VOCABULARY, batch_of


def masked(rows, first=0, epoch=0, seed=0, vocab_size=1000, text=None):
    """Rows of ordinary tokens, masked as BERT masks them: ids, selected positions, what they became."""
    length = 128
    ids = torch.full((rows, length), 500) if text is None else text
    keys = noise.row_keys(seed, torch.full((rows,), epoch), torch.arange(first, first + rows))
    stays, random = ObjectiveConfig(name="mlm").fates
    chosen = select(
        ids, torch.ones_like(ids), keys, SPECIAL, 0.15, stays, random_token_probability=random, vocab_size=vocab_size
    )
    assert bool(chosen.valid.all())
    return ids, chosen.positions, chosen.generator_ids


def test_80_10_10_within_five_standard_deviations():
    ids, positions, text = masked(rows=2000)
    now = text.gather(1, positions).flatten()
    count = len(now)
    assert count == 2000 * 19
    is_mask, kept = now == SPECIAL.mask, now == 500
    random = ~is_mask & ~kept
    # A random token is the original with probability 1/1000, and [MASK] with the same.
    for share, expected in ((is_mask, 0.8 + 0.1 / 1000), (kept, 0.1 + 0.1 / 1000), (random, 0.1 * 0.998)):
        spread = (expected * (1 - expected) / count) ** 0.5
        assert float(share.double().mean()) == pytest.approx(expected, abs=5 * spread)
    values = now[random]
    assert len(values.unique()) > 900
    assert int(values.min()) < 5
    assert float(values.double().mean()) == pytest.approx(499.5, abs=5 * 1000 / (12 * len(values)) ** 0.5)
    untouched = torch.ones_like(ids, dtype=torch.bool).scatter(1, positions, False)
    assert torch.equal(text[untouched], ids[untouched])


def test_random_tokens_are_a_function_of_seed_epoch_row_and_position():
    _, _, whole = masked(rows=8)
    for cut in (1, 3, 5):
        _, _, first = masked(rows=cut)
        _, _, rest = masked(rows=8 - cut, first=cut)
        assert torch.equal(torch.cat([first, rest]), whole)
    assert not torch.equal(masked(rows=8, epoch=1)[2], whole)
    assert not torch.equal(masked(rows=8, seed=1)[2], whole)


def test_the_googles_way_puts_no_random_token_in():
    objective = ObjectiveConfig(name="mlm", mlm_masking="google", mask_token_probability=0.5)
    batch = batch_of(objective, rows=20)
    changed = batch.generator_ids != batch.input_ids
    assert set(batch.generator_ids[changed].tolist()) == {SPECIAL.mask}
    share = float(changed.sum() / batch.selected_valid.sum())
    assert share == pytest.approx(0.5, abs=0.1)
    random = batch_of(ObjectiveConfig(name="mlm"), rows=20)
    changed = random.generator_ids != random.input_ids
    assert len(set(random.generator_ids[changed].tolist())) > VOCABULARY / 5


def test_other_objectives_mask_as_they_always_did():
    for name in ("electra", "replace_mlm", "all_tokens_mlm", "electra_15", "electric"):
        assert ObjectiveConfig(name=name, mask_token_probability=0.7).fates == (0.7, 0.0)


def test_random_tokens_need_to_know_the_vocabulary():
    with pytest.raises(ValueError, match="needs vocab_size"):
        masked(rows=1, vocab_size=None)
