"""A run begins from a released model: what fits is taken bit for bit, what is new is named, the rest is refused."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from electra_ds.checkpoint import list_checkpoints, read_state
from electra_ds.cli import main
from electra_ds.errors import DataError, UserError
from electra_ds.export.huggingface import write_export, write_network
from electra_ds.export.mapping import discriminator_to_huggingface, generator_to_huggingface
from electra_ds.export.networks import DISCRIMINATOR, GENERATOR
from electra_ds.export.weights import TensorWeights
from electra_ds.model.config import ModelConfig, ObjectiveConfig
from electra_ds.model.electra import Electra
from electra_ds.model.masking import SpecialIds
from electra_ds.recipe import parse_recipe, read_recipe, recipe_yaml
from electra_ds.training.config import InitConfig
from electra_ds.training.initial import NOISE, begin_from
from electra_ds.zero_pieces import read_weights
from tests.conftest import metrics, pretrain_options, run_ranks

WORD = "electra.embeddings.word_embeddings.weight"
POSITION = "electra.embeddings.position_embeddings.weight"
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(95))]
SIZES = {
    "layers": 2,
    "hidden_size": 128,
    "heads": 2,
    "intermediate_size": 256,
    "embedding_size": 32,
    "generator_width": 0.5,
    "max_positions": 32,
    "vocab_size": 100,
}


def write_tokenizer(folder, tokens):
    """A WordPiece tokenizer of these tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{role}_token": f"[{role.upper()}]" for role in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(str(folder))
    return folder


def config_of(**changes):
    return ModelConfig(**{**SIZES, **changes})


def write_model(folder, network, config, seed=1, tokens=TOKENS, kind=None):
    """A model of stock transformers with random weights, and its tokenizer."""
    import transformers

    torch.manual_seed(seed)
    model = (getattr(transformers, kind) if kind else network.huggingface_class)(network.config(config, SPECIAL))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.tie_weights()
    model.save_pretrained(str(folder))
    if tokens is not None:
        write_tokenizer(folder, tokens)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), TOKENS)


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("released") / "discriminator", DISCRIMINATOR, config_of())


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("released") / "generator", GENERATOR, config_of(), seed=2)


def begin(init, tokenizer, special=SPECIAL, **changes):
    """A model that was filled, its weights by name, what it was before, and what was said."""
    torch.manual_seed(0)
    model = Electra(config_of(**changes), ObjectiveConfig(), SpecialIds(**special))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    said = begin_from(model, init, tokenizer, special, seed=7)
    return {name: value.detach() for name, value in model.named_parameters()}, before, said, model.config


def stored(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("sharing", ["tied", "untied", "gdes"])
def test_a_discriminator_alone(sharing, discriminator, tokenizer):
    after, before, said, config = begin(InitConfig(from_=str(discriminator)), tokenizer, sharing=sharing)
    exported, wanted = discriminator_to_huggingface(after, config), stored(discriminator)
    assert exported.keys() == wanted.keys()
    assert all(torch.equal(exported[key], wanted[key]) for key in wanted)
    assert torch.equal(after["generator.layers.0.qkv.weight"], before["generator.layers.0.qkv.weight"])
    assert torch.equal(generator_to_huggingface(after, config)[WORD], wanted[WORD]), "its generator reads the same"
    assert f"discriminator: {len(wanted)} tensors from {discriminator}" in said
    (new,) = [line for line in said if line.startswith("generator: none was given")]
    assert "tensors are new (electra.embeddings_project.weight" in new


def test_with_everything_shared_its_generator_is_itself(tmp_path, tokenizer):
    changes = {"sharing": "all_tied", "generator_width": 1.0}
    folder = write_model(tmp_path / "all", DISCRIMINATOR, config_of(**changes))
    after, _, said, config = begin(InitConfig(from_=str(folder)), tokenizer, **changes)
    wanted = stored(folder)
    assert all(torch.equal(value, wanted[key]) for key, value in discriminator_to_huggingface(after, config).items())
    assert "5 tensors are new" in said[-1] and "generator_lm_head.bias" in said[-1]


@pytest.mark.parametrize("sharing", ["untied", "gdes"])
def test_a_pair(sharing, discriminator, generator, tokenizer):
    init = InitConfig(from_=str(discriminator), generator=str(generator))
    after, _, said, config = begin(init, tokenizer, sharing=sharing)
    for exported, folder in (
        (discriminator_to_huggingface(after, config), discriminator),
        (generator_to_huggingface(after, config), generator),
    ):
        wanted = stored(folder)
        for key, value in exported.items():
            torch.testing.assert_close(value, wanted[key], rtol=0, atol=1e-7)  # gdes: (a + b) - a
    assert not [line for line in said if "new" in line]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tied pair as convert leaves it, and its weights."""
    folder = tmp_path_factory.mktemp("released") / "hf"
    torch.manual_seed(3)
    model = Electra(config_of(), ObjectiveConfig(), SpecialIds(**SPECIAL))
    weights = {name: value.detach() + 0.05 * torch.randn_like(value) for name, value in model.named_parameters()}
    for network in (DISCRIMINATOR, GENERATOR):
        write_network(folder / network.name, network, TensorWeights(weights), model.config, SPECIAL, 10**5)
        write_tokenizer(folder / network.name, TOKENS)
    write_export(folder, (DISCRIMINATOR, GENERATOR), model.config, SPECIAL, {})
    return folder, weights


def test_what_convert_wrote_is_a_pair(pair, tokenizer):
    folder, weights = pair
    after, _, said, _ = begin(InitConfig(from_=str(folder)), tokenizer)
    for name, value in after.items():
        rows = 100 if "word" in name or name == "generator_head.bias" else len(value)
        assert torch.equal(value[:rows], weights[name][:rows]), name
    assert len(said) == 2


def test_a_tied_pair_stays_one_with_new_tokens(pair, tmp_path):
    folder, weights = pair
    tokenizer = write_tokenizer(tmp_path / "tokenizer", [*TOKENS, "new0", "new1"])
    after, *_ = begin(InitConfig(from_=str(folder), vocabulary="extend"), tokenizer, vocab_size=102)
    word = after["embeddings.word.weight"]
    assert torch.equal(word[:100], weights["embeddings.word.weight"][:100])
    assert not torch.equal(word[100], word[101]) and float(word[100:102].abs().max()) > 0


def test_a_pair_that_is_no_pair_is_refused(discriminator, generator, tokenizer):
    init = InitConfig(from_=str(discriminator), generator=str(generator))
    with pytest.raises(UserError, match=r"embeddings.word.weight differs between two networks.*untied"):
        begin(init, tokenizer)


def test_a_fine_tuned_model_gets_a_new_head_by_name(tmp_path, tokenizer):
    folder = write_model(tmp_path / "tuned", DISCRIMINATOR, config_of(), kind="ElectraForSequenceClassification")
    after, before, said, _ = begin(InitConfig(from_=str(folder)), tokenizer)
    (new,) = [line for line in said if "as it has none" in line]
    for name in ("dense.weight", "dense.bias", "dense_prediction.weight", "dense_prediction.bias"):
        assert f"discriminator_predictions.{name}" in new
    assert torch.equal(after["discriminator_head.dense.weight"], before["discriminator_head.dense.weight"])
    (left,) = [line for line in said if "left out" in line]
    assert "classifier.dense.weight" in left
    assert torch.equal(
        after["discriminator.layers.1.output.weight"], stored(folder)["electra.encoder.layer.1.output.dense.weight"]
    )


def test_an_encoder_that_was_saved_on_its_own(tmp_path, tokenizer):
    folder = write_model(tmp_path / "encoder", DISCRIMINATOR, config_of(), kind="ElectraModel")
    assert "embeddings.word_embeddings.weight" in stored(folder)
    after, _, _, config = begin(InitConfig(from_=str(folder)), tokenizer)
    exported, wanted = discriminator_to_huggingface(after, config), stored(folder)
    assert all(torch.equal(value, exported[f"electra.{key}"]) for key, value in wanted.items())


def test_bert_is_refused_with_the_list(tmp_path, tokenizer):
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 256}
    BertForMaskedLM(BertConfig(vocab_size=100, **sizes)).save_pretrained(str(tmp_path / "bert"))
    with pytest.raises(UserError) as caught:
        begin(InitConfig(from_=str(tmp_path / "bert")), tokenizer)
    message = str(caught.value)
    assert "model_type: bert there, electra expected" in message
    assert "hidden_size: 96 there, 128 in the recipe (model.hidden_size)" in message
    assert "num_hidden_layers: 3 there, 2 in the recipe (model.layers)" in message
    assert "tensors are not there" in message and "its names begin with bert, cls" in message


def test_other_sizes_are_refused_with_the_list(generator, tmp_path, tokenizer):
    folder = write_model(tmp_path / "other", DISCRIMINATOR, config_of(layers=3, embedding_size=64, max_positions=48))
    with pytest.raises(UserError) as caught:
        begin(InitConfig(from_=str(folder)), tokenizer)
    for part in ("embedding_size: 64 there, 32 in", "num_hidden_layers: 3 there, 2 in", "positions: 48 there, 32 in"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match=r"init.generator: .*hidden_size: 64 there, 32 in the recipe"):
        begin(InitConfig(from_=str(folder), generator=str(generator)), tokenizer, layers=3, embedding_size=64,
              max_positions=48, generator_width=0.25)  # fmt: skip


@pytest.mark.parametrize("there", [20, 48])
def test_positions_are_cut_or_repeated_if_asked_to(there, tmp_path, tokenizer):
    folder = write_model(tmp_path / "other", DISCRIMINATOR, config_of(max_positions=there))
    after, _, said, config = begin(InitConfig(from_=str(folder), positions="resize"), tokenizer)
    old, new = stored(folder)[POSITION], discriminator_to_huggingface(after, config)[POSITION]
    assert torch.equal(new[: min(there, 32)], old[:32])
    assert there > 32 or torch.equal(new[20:], old[:12])
    assert [line for line in said if f"{there} positions became 32" in line]


def test_another_vocabulary_is_refused_unless_asked_for(discriminator, tmp_path):
    other = write_tokenizer(tmp_path / "other", [*TOKENS[:50], *TOKENS[51:], TOKENS[50]])
    with pytest.raises(UserError, match="vocabulary: 100 tokens there, 100 in the shards', 50 of them the same"):
        begin(InitConfig(from_=str(discriminator)), other)
    some = write_tokenizer(tmp_path / "some", TOKENS[:90])
    with pytest.raises(UserError, match=r"10 of its 100 tokens are not in the shards' \(word85, .*no extension"):
        begin(InitConfig(from_=str(discriminator), vocabulary="extend"), some, vocab_size=90)


@pytest.mark.parametrize("new_rows", ["mean", "normal"])
def test_tokens_keep_their_rows_by_spelling(new_rows, generator, tmp_path):
    """Special tokens by role, under other ids; four in five words; and new ones."""
    kept = TOKENS[20:]
    tokens = [*(f"new{number}" for number in range(300)), "[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]", *reversed(kept)]
    tokenizer = write_tokenizer(tmp_path / "tokenizer", tokens)
    special = {role: tokens.index(f"[{role.upper()}]") for role in SPECIAL}
    folder = write_model(tmp_path / "discriminator", DISCRIMINATOR, config_of())
    init = InitConfig(from_=str(folder), generator=str(generator), vocabulary="replace", new_rows=new_rows)
    after, _, said, config = begin(init, tokenizer, special, vocab_size=len(tokens), sharing="untied")
    old, new = stored(folder)[WORD], discriminator_to_huggingface(after, config)[WORD]
    for token in [*kept, *TOKENS[:5]]:
        assert torch.equal(new[tokens.index(token)], old[TOKENS.index(token)]), token
    made = new[:300]
    if new_rows == "mean":
        spread = NOISE * old.std(0)
        assert bool(((made.mean(0) - old.mean(0)).abs() <= 5 * spread / 300**0.5).all())
        assert bool(((made.std(0) / spread - 1).abs() < 0.25).all())
    else:
        assert float(made.mean().abs()) < 0.001 and float(made.std()) == pytest.approx(0.02, rel=0.05)
    assert len(torch.unique(made, dim=0)) == 300
    old_bias = stored(generator)["generator_lm_head.bias"]
    bias = generator_to_huggingface(after, config)["generator_lm_head.bias"]
    assert bias[tokens.index("word40")] == old_bias[TOKENS.index("word40")]
    torch.testing.assert_close(bias[0], old_bias.mean() if new_rows == "mean" else torch.zeros(()))
    told = [
        line for line in said if line.startswith("discriminator: 85 of 385 tokens keep their embeddings, 300 are new")
    ]
    assert len(told) == 1 and "15 of the old 100 are given up" in told[0]


def test_a_longer_vocabulary_extends(discriminator, tmp_path):
    tokens = [*TOKENS, "new0", "new1"]
    tokenizer = write_tokenizer(tmp_path / "tokenizer", tokens)
    init = InitConfig(from_=str(discriminator), vocabulary="extend")
    after, _, said, config = begin(init, tokenizer, vocab_size=102)
    assert torch.equal(discriminator_to_huggingface(after, config)[WORD][:100], stored(discriminator)[WORD])
    assert (after["embeddings.word.weight"][102:] == 0).all(), "padded rows"
    assert [line for line in said if "100 of 102 tokens keep their embeddings, 2 are new" in line]


def test_without_a_tokenizer_only_the_number_of_tokens_is_compared(tmp_path, tokenizer):
    folder = write_model(tmp_path / "bare", DISCRIMINATOR, config_of(), tokens=None)
    _, _, said, _ = begin(InitConfig(from_=str(folder)), tokenizer)
    assert "discriminator: no tokenizer lies beside it, so only the number of tokens was compared" in said
    with pytest.raises(UserError, match=r"init.vocabulary=replace cannot match tokens"):
        begin(InitConfig(from_=str(folder), vocabulary="replace"), tokenizer)


def pickled(folder, discriminator, extra=None):
    """The model with its weights in torch's own format, as most released ones have them."""
    shutil.copytree(discriminator, folder)
    (folder / "model.safetensors").unlink()
    tensors = {**stored(discriminator), "electra.embeddings.position_ids": torch.arange(32)[None]}
    torch.save(tensors if extra is None else {**tensors, "extra": extra}, folder / "pytorch_model.bin")
    return folder


def test_pickled_tensors_are_taken(discriminator, tmp_path, tokenizer):
    folder = pickled(tmp_path / "pickled", discriminator)
    after, _, said, config = begin(InitConfig(from_=str(folder)), tokenizer)
    wanted = stored(discriminator)
    assert all(torch.equal(value, wanted[key]) for key, value in discriminator_to_huggingface(after, config).items())
    assert not [line for line in said if "left out" in line]


class Making:
    """Something that a pickle would run."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("form", ["torch", "old torch", "plain"])
def test_a_pickle_that_would_run_something_is_refused_by_name(form, discriminator, tmp_path, tokenizer):
    ran = tmp_path / "ran"
    folder = pickled(tmp_path / "evil", discriminator)
    file = folder / "pytorch_model.bin"
    if form == "plain":
        file.write_bytes(pickle.dumps(Making(ran)))
    else:
        torch.save({"extra": Making(ran)}, file, _use_new_zipfile_serialization=form == "torch")
    named = r"refused or damaged \(it would run or build posix.mkdir\)" if form != "plain" else "refused or damaged"
    with pytest.raises(DataError, match=rf"pytorch_model.bin: {named}"):
        begin(InitConfig(from_=str(folder)), tokenizer)
    assert not ran.exists()
    torch.load(file, weights_only=False) if form != "plain" else pickle.loads(file.read_bytes())
    assert ran.exists(), "it would have run"


def test_more_than_tensors_is_refused(discriminator, tmp_path, tokenizer):
    folder = pickled(tmp_path / "more", discriminator, extra="words")
    with pytest.raises(DataError, match="refused, it holds extra beside tensors"):
        begin(InitConfig(from_=str(folder)), tokenizer)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "init.from: no folder /no/such/folder; expected a model folder, or a name on the hub"),
        ("owner/electra", "init.from: there is no folder owner/electra, and the hub's owner/electra cannot be fetched"),
    ],
)
def test_a_name_that_nothing_answers_to(name, message, tokenizer, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        begin(InitConfig(from_=name), tokenizer)
    assert str(caught.value).startswith(message)


def test_a_folder_that_is_no_model(tmp_path, tokenizer, discriminator):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"init.from: .*empty is no model folder, config.json"):
        begin(InitConfig(from_=str(tmp_path / "empty")), tokenizer)
    with pytest.raises(DataError, match=rf"did you mean {discriminator}"):
        begin(InitConfig(from_=str(discriminator.parent)), tokenizer)
    copy = shutil.copytree(discriminator, tmp_path / "tensorflow")
    (copy / "model.safetensors").rename(copy / "tf_model.h5")
    with pytest.raises(DataError, match=r"neither model.safetensors nor pytorch_model.bin \(only tf_model.h5\)"):
        begin(InitConfig(from_=str(copy)), tokenizer)


def test_the_option_is_spelled_from_everywhere(tmp_path, capsys):
    arguments = ["--config", "small", "--data.path=shards", "--output=run", "--init.from=owner/name"]
    recipe = parse_recipe([*arguments, "--init.generator", "owner/other"], "electra-ds pretrain")
    assert recipe.init == InitConfig(from_="owner/name", generator="owner/other")
    text = recipe_yaml(recipe)
    assert "\n  from: owner/name\n" in text and "from_" not in text
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(tmp_path / "recipe.yaml") == recipe
    (tmp_path / "quoted.yaml").write_text(
        'data: {path: shards}\noutput: run\ninit: {"from": a/b, vocabulary: extend}\n'
    )
    assert read_recipe(tmp_path / "quoted.yaml").init == InitConfig(from_="a/b", vocabulary="extend")
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    shown = capsys.readouterr().out
    assert "--init.from FROM" in shown and "from_" not in shown
    with pytest.raises(UserError, match=r"unknown option or key 'init.form'; did you mean 'init.from'"):
        parse_recipe([*arguments[:-1], "--init.form=x"], "electra-ds pretrain")
    with pytest.raises(UserError, match=r"init.generator=a/b: needs init.from"):
        parse_recipe([*arguments[:-1], "--init.generator=a/b"], "electra-ds pretrain")
    assert replace(recipe.init, from_=None, generator=None) == InitConfig()


@pytest.fixture(scope="module")
def exported(tiny_shards, tmp_path_factory):
    """A run and the folder that convert made of it."""
    folder = tmp_path_factory.mktemp("exported")
    run_ranks(1, ["pretrain", *pretrain_options(tiny_shards, folder / "run", training__steps=3)])
    assert main(["convert", str(folder / "run"), "--output", str(folder / "hf")]) == 0
    return folder


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "ranks"), [("zero1", 1), ("zero3", 2)])
def test_a_run_begins_there_under_every_stage_and_then_goes_on_from_its_own(
    stage, ranks, exported, tiny_shards, tmp_path
):
    """The first update has rate 0: after it the weights are those that were loaded, to the last bit."""
    hf, run = shutil.copytree(exported / "hf", tmp_path / "hf"), tmp_path / "run"
    options = pretrain_options(
        tiny_shards, run, init__from=hf, deepspeed=stage, training__precision="float32", training__seed=5
    )
    done = run_ranks(ranks, ["pretrain", *options, "--training.stop_after=1"])
    assert f"discriminator: 43 tensors from {hf}/discriminator" in done.stdout
    assert f"generator: 42 tensors from {hf}/generator" in done.stdout
    path = list_checkpoints(run / "checkpoints")[-1]
    begun = read_weights(path, read_state(path)[0])
    source = list_checkpoints(exported / "run" / "checkpoints")[-1]
    trained = read_weights(source, read_state(source)[0])
    for name, value in begun.items():
        rows = 1000 if "word" in name or name == "generator_head.bias" else len(value)
        assert torch.equal(value[:rows], trained[name][:rows]), name
    (start,) = [line for line in metrics(run, "event") if line["event"] == "start"]
    assert any("tensors from" in line for line in start["init"])
    if stage != "zero3":
        return
    shutil.rmtree(hf)
    again = run_ranks(ranks, ["pretrain", *options, "--training.stop_after=2"])
    assert "resumed from" in again.stdout and "tensors from" not in again.stdout


@pytest.mark.ranks
def test_what_does_not_fit_ends_every_rank_with_the_list(exported, tiny_shards, tmp_path):
    options = pretrain_options(tiny_shards, tmp_path / "run", init__from=exported / "hf", model__layers=3)
    done = run_ranks(2, ["pretrain", *options], check=False, launcher="mpirun")
    assert done.returncode == 2
    assert done.stdout.count("does not fit the recipe: num_hidden_layers: 2 there, 3 in the recipe") == 1
