"""Same weights, same numbers as stock transformers: hidden states, logits, gradients, and the names both ways."""

import pytest
import torch
from torch.nn import functional

from electra_ds.export.mapping import discriminator_to_huggingface, generator_to_huggingface
from electra_ds.export.networks import DISCRIMINATOR, GENERATOR, own_weights
from tests.model.conftest import make_batch, make_model, packed_rows, to_huggingface

SIZES = {
    "small": {
        "layers": 3,
        "hidden_size": 256,
        "heads": 4,
        "intermediate_size": 1024,
        "embedding_size": 128,
        "generator_width": 0.25,
    },
    "base": {
        "layers": 2,
        "hidden_size": 768,
        "heads": 12,
        "intermediate_size": 3072,
        "embedding_size": 768,
        "generator_width": 1 / 3,
    },
    "large": {
        "layers": 2,
        "hidden_size": 1024,
        "heads": 16,
        "intermediate_size": 4096,
        "embedding_size": 1024,
        "generator_width": 0.25,
    },
    "custom": {},
}
SHARING = [
    {"sharing": "tied"},
    {"sharing": "untied"},
    {"sharing": "all_tied", "generator_width": 1.0},
    {"sharing": "gdes"},
    {"sharing": "gdes", "gdes_positions": False},
]


def close(ours, theirs, relative=1e-5):
    """Equal within a share of the largest number."""
    torch.testing.assert_close(ours, theirs, rtol=relative, atol=relative * float(theirs.abs().max()))


def mask_of(segments):
    """Hugging Face's additive 4-D mask that confines attention to segments."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return torch.zeros(same.shape).masked_fill(~same, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_hidden_states_and_logits_of_every_size(size):
    model = make_model(**SIZES[size])
    generator, discriminator = to_huggingface(model)
    ids = torch.randint(0, 101, (2, 40))
    positions = torch.arange(40).expand_as(ids)
    plain = (model.layout(torch.ones_like(ids)), positions, (positions >= 20).long())
    for ours, theirs in ((model.generator_states, generator), (model.discriminator_states, discriminator)):
        close(ours(ids, *plain), theirs.electra(ids, token_type_ids=plain[2]).last_hidden_state)
    logits = model.generator_logits(model.generator_states(ids, *plain))
    close(logits[..., :101], generator(ids, token_type_ids=plain[2]).logits)
    assert (logits[..., 101:] == -torch.inf).all(), "padded vocabulary columns"
    verdict = model.discriminator_logits(model.discriminator_states(ids, *plain))
    close(verdict, discriminator(ids, token_type_ids=plain[2]).logits)


@pytest.mark.parametrize("sharing", SHARING, ids=lambda s: "-".join(map(str, s.values())))
@torch.no_grad()
def test_packed_rows_equal_each_segment_on_its_own(sharing):
    model = make_model(**sharing)
    generator, discriminator = to_huggingface(model)
    ids, segments, positions, types = packed_rows()
    layout = model.layout(segments)
    own_generator = model.generator_logits(model.generator_states(ids, layout, positions, types))[..., :101]
    own_verdict = model.discriminator_logits(model.discriminator_states(ids, layout, positions, types))
    for row in range(len(ids)):
        for number in range(1, int(segments[row].max()) + 1):
            here = segments[row] == number
            alone = {"input_ids": ids[row, here][None], "token_type_ids": types[row, here][None]}
            close(own_generator[row, here][None], generator(**alone).logits)
            close(own_verdict[row, here][None], discriminator(**alone).logits)


@pytest.mark.parametrize("sharing", SHARING, ids=lambda s: "-".join(map(str, s.values())))
def test_names_map_both_ways_without_loss(sharing):
    model = make_model(**sharing)
    ours = dict(model.named_parameters())
    shapes = {name: value.shape for name, value in ours.items()}
    states = [discriminator_to_huggingface(ours, model.config), generator_to_huggingface(ours, model.config)]
    back = own_weights((DISCRIMINATOR, GENERATOR), states, model.config, shapes)
    assert back.keys() == ours.keys()
    for name, value in ours.items():
        returned = back[name]
        if "word" in name or name == "generator_head.bias":
            value, returned = value[:101], returned[:101]
            assert (back[name][101:] == 0).all()
        if "delta" in name:
            torch.testing.assert_close(returned, value, rtol=1e-5, atol=1e-6)  # (a + b) - a
        else:
            assert torch.equal(returned, value), name


def test_tied_networks_that_were_trained_apart_are_refused():
    model = make_model()
    ours = dict(model.named_parameters())
    discriminator = discriminator_to_huggingface(ours, model.config)
    discriminator["electra.embeddings.word_embeddings.weight"] = torch.zeros(101, 64)
    with pytest.raises(Exception, match=r"embeddings\.word\.weight differs between two networks"):
        shapes = {name: value.shape for name, value in ours.items()}
        states = [discriminator, generator_to_huggingface(ours, model.config)]
        own_weights((DISCRIMINATOR, GENERATOR), states, model.config, shapes)


def plain_joint_step(generator, discriminator, batch, samples, objective):
    """The joint step a user would write with transformers, on given masks and samples; both losses."""
    arguments = {
        "attention_mask": mask_of(batch.segments),
        "token_type_ids": batch.token_types,
        "position_ids": batch.positions,
    }
    logits = generator(batch.generator_ids, **arguments).logits
    rows = torch.arange(len(logits))[:, None].expand_as(batch.selected)[batch.selected_valid]
    columns = batch.selected[batch.selected_valid]
    generator_loss = functional.cross_entropy(logits[rows, columns], batch.input_ids[rows, columns])
    corrupted = batch.input_ids.clone()
    corrupted[rows, columns] = samples[batch.selected_valid]
    labels = (corrupted != batch.input_ids).float()
    real = batch.segments > 0
    verdict = discriminator(corrupted, **arguments).logits
    discriminator_loss = functional.binary_cross_entropy_with_logits(verdict[real], labels[real])
    return generator_loss, discriminator_loss


@pytest.mark.parametrize("weights", [(1.0, 50.0), (1.0, 0.0), (0.0, 50.0)], ids=["joint", "generator", "discriminator"])
def test_gradients_equal_a_plain_hugging_face_joint_step(objective, weights):
    import dataclasses

    objective = dataclasses.replace(objective, generator_weight=weights[0], discriminator_weight=weights[1])
    model = make_model(objective).double()
    batch = make_batch(objective)
    output = model(batch)
    output["loss"].backward()

    generator, discriminator = (network.double() for network in to_huggingface(model.float()))
    model.double()
    discriminator.electra.embeddings = generator.electra.embeddings
    losses = plain_joint_step(generator, discriminator, batch, output["samples"], objective)
    (weights[0] * losses[0] + weights[1] * losses[1]).backward()

    ours = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    expected_generator = generator_to_huggingface(ours, model.config)
    expected_discriminator = discriminator_to_huggingface(ours, model.config)
    largest = max(
        float(p.grad.abs().max()) for n in (generator, discriminator) for p in n.parameters() if p.grad is not None
    )
    compared = 0
    for network, expected in ((generator, expected_generator), (discriminator, expected_discriminator)):
        for name, parameter in network.named_parameters():
            theirs = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            # A key's bias shifts all scores of a query alike, so its gradient is zero but for rounding in float64.
            floor = 1e-12 * largest if name.endswith("key.bias") else 0.0
            allowed = max(1e-5 * float(theirs.abs().max()), floor)
            torch.testing.assert_close(
                expected[name], theirs, rtol=1e-5, atol=allowed, msg=lambda m, n=name: f"{n}: {m}"
            )
            compared += 1
    assert compared > 60
