"""``electra-ds finetune`` from the command line: what it writes, repeats, refuses and leaves alone."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from electra_ds.cli import main
from tests.finetune.conftest import VOCABULARY, sentences, write_electra, write_tokenizer, write_tsv

QUICK = {
    "seeds": 2, "epochs": 8, "max_length": 32, "learning_rate": 5e-3, "layer_decay": 1, "dropout": 0, "batch_size": 16
}  # fmt: skip


def finetune(model, train, validation, output, **options):
    """Run the command in this process; return its exit status."""
    given = {"model": model, "train": train, "validation": validation, "output": output, **QUICK, **options}
    arguments = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()
    ]
    return main(["finetune", *arguments])


def results(output):
    return json.loads((output / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def finished(discriminator, tmp_path_factory):
    """One full run: two seeds, both starts, baseline, and a test file."""
    folder = tmp_path_factory.mktemp("finished")
    train = write_tsv(folder / "train.tsv", sentences(320, seed=1))
    validation = write_tsv(folder / "dev.tsv", sentences(40, seed=2))
    test = write_tsv(folder / "test.tsv", sentences(20, seed=3))
    options = {"test": test, "baseline": True, "compare_from_scratch": True}
    assert finetune(discriminator, train, validation, folder / "ft", **options) == 0
    return folder


def test_results_hold_every_run_its_summary_and_the_baselines(finished):
    found = results(finished / "ft")
    runs = [(run["initialization"], run["seed"]) for run in found["runs"]]
    assert runs == [("pretrained", 0), ("pretrained", 1), ("from_scratch", 0), ("from_scratch", 1)]
    for kind in ("pretrained", "from_scratch"):
        scores = [run["scores"]["test"]["accuracy"] for run in found["runs"] if run["initialization"] == kind]
        summary = found["summary"][kind]["test"]["accuracy"]
        assert (summary["minimum"], summary["maximum"]) == (min(scores), max(scores))
        assert summary["median"] == pytest.approx(sum(scores) / 2)
    assert found["baselines"]["majority"]["validation"]["accuracy"] == 0.5
    assert found["baselines"]["bag_of_words"]["test"]["accuracy"] == 1.0, "one word decides in these texts"
    assert found["data"]["train"]["labels"] == {"animal": 160, "food": 160}
    assert found["settings"]["learning_rate"] == 5e-3


def test_a_separable_task_is_learned(finished):
    summary = results(finished / "ft")["summary"]["pretrained"]["validation"]["accuracy"]
    assert summary["median"] > 0.9


def test_predictions_agree_with_the_reported_scores(finished):
    for run in results(finished / "ft")["runs"]:
        for split, name in (("validation", "predictions.tsv"), ("test", "predictions-test.tsv")):
            with open(finished / "ft" / run["folder"] / name, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file, delimiter="\t"))
            right = sum(row["label"] == row["predicted"] for row in rows)
            assert right / len(rows) == pytest.approx(run["scores"][split]["accuracy"])


def test_saved_model_loads_in_stock_transformers_and_gives_the_best_seeds_predictions(finished):
    best = results(finished / "ft")["best"]
    model = AutoModelForSequenceClassification.from_pretrained(finished / "ft" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "ft" / "model")
    assert model.config.id2label == {0: "animal", 1: "food"}
    with open(finished / "ft" / best["folder"] / "predictions.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    batch = tokenizer([text for text, _ in sentences(40, seed=2)], padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**batch).logits.softmax(-1)[:, 1]
    written = torch.tensor([float(row["probability_food"]) for row in rows])
    torch.testing.assert_close(probabilities, written, rtol=0, atol=1e-5)


def test_the_best_seed_has_the_highest_validation_score(finished):
    found = results(finished / "ft")
    scores = [run["scores"]["validation"]["accuracy"] for run in found["runs"] if run["initialization"] == "pretrained"]
    assert found["best"]["scores"]["validation"]["accuracy"] == max(scores)
    assert found["best"]["initialization"] == "pretrained"


def test_the_same_seed_gives_the_same_predictions(finished, discriminator, tmp_path):
    again = tmp_path / "again"
    assert finetune(discriminator, finished / "train.tsv", finished / "dev.tsv", again, seeds=1, first_seed=1) == 0
    name = "seed-1/predictions.tsv"
    assert (again / name).read_bytes() == (finished / "ft" / name).read_bytes()


def test_micro_batches_change_nothing_but_rounding(finished, discriminator, tmp_path):
    small = tmp_path / "small"
    options = {"seeds": 1, "micro_batch_size": 4}
    assert finetune(discriminator, finished / "train.tsv", finished / "dev.tsv", small, **options) == 0
    ours, theirs = (results(folder)["runs"][0] for folder in (small, finished / "ft"))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert ours["scores"] == {"validation": theirs["scores"]["validation"]}


def test_random_start_is_another_network_than_the_pretrained_one(finished):
    losses = {(run["initialization"], run["seed"]): run["loss"] for run in results(finished / "ft")["runs"]}
    assert losses["pretrained", 0] != losses["from_scratch", 0]


def test_test_file_without_labels_gets_predictions_and_no_score(discriminator, train_file, validation_file, tmp_path):
    test = write_tsv(tmp_path / "test.tsv", [("the cat",), ("a soup",)], header=("text",))
    output = tmp_path / "ft"
    options = {"test": test, "test_labels": False, "seeds": 1, "epochs": 1}
    assert finetune(discriminator, train_file, validation_file, output, **options) == 0
    assert "test" not in results(output)["runs"][0]["scores"]
    assert len((output / "seed-0" / "predictions-test.tsv").read_text().splitlines()) == 3


def test_pairs_and_columns_by_name(discriminator, tmp_path):
    pairs = [
        (f"{label}", "7", first, second)
        for (first, label), (second, _) in zip(sentences(32, 1), sentences(32, 9), strict=True)
    ]
    data = write_tsv(tmp_path / "pairs.txt", pairs, header=("Quality", "#1 ID", "#1 String", "#2 String"))
    columns = {"text_column": "#1 String", "text_pair_column": "#2 String", "label_column": "Quality"}
    assert finetune(discriminator, data, data, tmp_path / "ft", seeds=1, epochs=1, **columns) == 0
    assert results(tmp_path / "ft")["data"]["train"]["pairs"] is True


def test_finished_results_are_never_overwritten(finished, discriminator, capsys):
    before = (finished / "ft" / "results.json").read_bytes()
    assert finetune(discriminator, finished / "train.tsv", finished / "dev.tsv", finished / "ft") == 2
    assert "holds finished results" in capsys.readouterr().err
    assert (finished / "ft" / "results.json").read_bytes() == before


def test_a_folder_with_something_else_is_left_alone(discriminator, train_file, validation_file, tmp_path, capsys):
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("do not lose")
    assert finetune(discriminator, train_file, validation_file, output) == 2
    assert "holds something else (thesis.txt)" in capsys.readouterr().err
    assert (output / "thesis.txt").read_text() == "do not lose"


def test_an_interrupted_run_is_run_again(discriminator, train_file, validation_file, tmp_path):
    output = tmp_path / "ft"
    (output / "seed-7").mkdir(parents=True)
    (output / "finetune.yaml").write_text("seeds: 8\n")
    assert finetune(discriminator, train_file, validation_file, output, seeds=1, epochs=1) == 0
    assert sorted(path.name for path in output.iterdir()) == ["finetune.yaml", "model", "results.json", "seed-0"]


def refused(capsys, *arguments, **options):
    """Run the command, assert status 2 and that no output folder was left behind finished; return the message."""
    capsys.readouterr()
    assert finetune(*arguments, **options) == 2
    message = capsys.readouterr().err
    assert message.startswith("electra-ds: error: ") and "Traceback" not in message and message.count("\n") == 1
    return message


def test_models_that_do_not_serve_are_refused(train_file, validation_file, tmp_path, capsys):
    files, output = (train_file, validation_file), tmp_path / "ft"
    assert "hf:NAME for the hub" in refused(capsys, tmp_path / "none", *files, output)

    model = tmp_path / "hf" / "discriminator"
    model.mkdir(parents=True)
    assert "it has no config.json" in refused(capsys, model, *files, output)

    write_electra(model)
    assert f"did you mean {model}?" in refused(capsys, tmp_path / "hf", *files, output)
    (model / "config.json").write_text("{}")
    assert "names no model_type" in refused(capsys, model, *files, output)

    write_electra(model)
    assert "no tokenizer lies in" in refused(capsys, model, *files, output)

    write_tokenizer(model, [*VOCABULARY, "extra"])
    message = refused(capsys, model, *files, output)
    assert f"has {len(VOCABULARY) + 1} tokens" in message and f"embeddings for {len(VOCABULARY)}" in message

    write_tokenizer(model, VOCABULARY)
    assert "max_length: 128" in refused(capsys, model, *files, output, max_length=128)

    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "weights" in refused(capsys, model, *files, output)
    (model / "model.safetensors").unlink()
    assert "weights" in refused(capsys, model, *files, output)


def test_a_config_of_a_deeper_model_is_refused(train_file, validation_file, tmp_path, capsys):
    write_electra(tmp_path / "shallow", num_hidden_layers=1)
    write_electra(tmp_path / "deep", num_hidden_layers=2)
    write_tokenizer(tmp_path / "deep", VOCABULARY)
    (tmp_path / "shallow" / "model.safetensors").rename(tmp_path / "deep" / "model.safetensors")
    message = refused(capsys, tmp_path / "deep", train_file, validation_file, tmp_path / "ft")
    assert "16 tensors of the encoder" in message and "config.json is of another model" in message


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("bad.tsv", b"text\tlabel\nthe cat\tplant\n", {}, "'plant' (1 rows); it has 'animal', 'food'"),
        ("bad.tsv", b"text\tclass\nthe cat\tanimal\n", {}, "no column 'label'; it has 'text', 'class'"),
        ("bad.tsv", b"", {}, "empty"),
        ("bad.tsv", b"text\tlabel\nthe c\xe4t\tanimal\n", {}, "not UTF-8"),
        ("bad.tsv", b"text\tlabel\n\tanimal\n", {}, "is empty; remove the row"),
        ("bad.tsv", b"text\tlabel\nthe cat\n", {}, "line 2: 1 fields"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"metric": "acuracy"}, "did you mean 'accuracy'?"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"task": "clasification"}, "did you mean 'classification'?"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"seeds": 0}, "seeds: 0, expected at least 1"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"micro_batch_size": 5}, "a divisor of batch_size 16"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"dropout": 1}, "dropout: 1.0, expected 0 or more, below 1"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"epoch": 2}, "did you mean 'epochs'?"),
        ("good.tsv", b"text\tlabel\nthe cat\tanimal\n", {"test_labels": False}, "there is no test"),
    ],
)
def test_bad_input_is_one_clear_error(discriminator, train_file, tmp_path, capsys, name, content, options, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused(capsys, discriminator, train_file, tmp_path / name, tmp_path / "ft", **options)
    assert not (tmp_path / "ft").exists()


def test_bf16_trains_and_fp16_is_refused_without_a_gpu(discriminator, train_file, validation_file, tmp_path, capsys):
    files = (train_file, validation_file)
    assert finetune(discriminator, *files, tmp_path / "ft", seeds=1, epochs=1, precision="bf16") == 0
    if not torch.cuda.is_available():
        assert "fp16 needs a GPU" in refused(capsys, discriminator, *files, tmp_path / "no", precision="fp16")


def test_half_a_launcher_is_refused(discriminator, train_file, validation_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "set all five" in refused(capsys, discriminator, train_file, validation_file, tmp_path / "ft")


def test_a_mistake_is_answered_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from electra_ds.cli import main; "
        "status = main(['finetune', '--model=none', '--train=none', '--validation=none', '--output=none']); "
        "sys.exit(status if 'torch' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2, done.stderr
