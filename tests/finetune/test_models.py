"""What is set in a model's config and refused of it, for encoders of every kind."""

import dataclasses

import pytest
import torch
import transformers

from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.models import dropout_settings, load_config, usable_positions
from electra_ds.finetune.tasks import build_task
from electra_ds.finetune.training import unlayered


@pytest.mark.parametrize(
    ("kind", "auto_model", "names"),
    [
        ("ElectraConfig", "AutoModelForMultipleChoice", {"summary_last_dropout", "classifier_dropout"}),
        ("DistilBertConfig", "AutoModelForQuestionAnswering", {"dropout", "attention_dropout", "qa_dropout"}),
        ("DistilBertConfig", "AutoModelForSequenceClassification", {"seq_classif_dropout"}),
        ("AlbertConfig", "AutoModelForSequenceClassification", {"classifier_dropout_prob"}),
        ("FunnelConfig", "AutoModelForSequenceClassification", {"hidden_dropout", "attention_dropout"}),
    ],
)
def test_dropout_reaches_every_place_of_encoder_and_head(tmp_path, kind, auto_model, names):
    getattr(transformers, kind)(vocab_size=20).save_pretrained(tmp_path)
    config = load_config(str(tmp_path), 0.25, {"num_labels": 2})
    assert names <= set(dropout_settings(config))
    assert {getattr(config, name) for name in dropout_settings(config)} == {0.25}
    with torch.device("meta"):
        network = getattr(transformers, auto_model).from_config(config)
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_the_longest_input_leaves_out_the_positions_that_robertas_kin_reserve():
    shape = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for kind, padding, expected in (("Roberta", 1, 12), ("MPNet", 1, 12), ("Electra", 0, 14)):
        config = getattr(transformers, f"{kind}Config")(max_position_embeddings=14, pad_token_id=padding, **shape)
        network = getattr(transformers, f"{kind}Model")(config).eval()
        assert usable_positions(config) == expected
        network(torch.full((1, expected), 5))
        with pytest.raises((IndexError, RuntimeError)):
            network(torch.full((1, expected + 1), 5))
    assert usable_positions(transformers.XLNetConfig()) is None


def test_layer_decay_that_finds_no_layer_is_said():
    shape = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    given = FinetuneConfig(model="m", train="t", validation="v", output="o", layer_decay=0.8, learning_rate=1e-3)
    task = build_task(given)
    for kind, said in (("Albert", True), ("Electra", False), ("DistilBert", False)):
        config = getattr(transformers, f"{kind}Config")(**shape)
        lines = unlayered(task, given, config)
        assert bool(lines) == said and (
            not said or "layer_decay: 0.8, but the weights of m (albert) are in" in lines[0]
        )
        assert unlayered(task, dataclasses.replace(given, layer_decay=1.0), config) == []
    assert unlayered(task, given, transformers.FunnelConfig(vocab_size=20, block_sizes=[1, 1], d_model=16))
