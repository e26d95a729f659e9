"""Every kind of task from the command line on tiny networks: what it learns, writes and saves."""

import json
import random

import pytest
import transformers

from electra_ds.cli import main
from electra_ds.errors import DataError
from electra_ds.finetune.heads import ElectraForJointQuestionAnswering
from electra_ds.report import finetuning
from tests.finetune.conftest import ANIMALS, COMMON, FOODS, sentences, write_tsv
from tests.finetune.test_question_answering import squad_file

QUICK = {
    "seeds": 1, "epochs": 6, "max_length": 32, "learning_rate": 5e-3, "layer_decay": 1, "dropout": 0, "batch_size": 16
}  # fmt: skip


def finetune(model, output, **options):
    """Run the command in this process; return its results.json."""
    given = {"model": model, "output": output, **QUICK, **options}
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()]
    assert main(["finetune", *words]) == 0
    found = json.loads((output / "results.json").read_text("utf-8"))
    page = finetuning.build(found)
    assert page.parts[0].table[0].seeds == given["seeds"] and "<svg" in page.parts[0].svg, "the report shows every kind"
    assert {part.split for part in page.parts if part.table} == set(found["runs"][0]["scores"]), "and every split"
    return found


def tagged(path, count, seed):
    """Sentences in which every animal and food is an entity."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        for word in draw.choices([*COMMON, *ANIMALS[:3], *FOODS[:3]], k=draw.randint(3, 8)):
            kind = "animal" if word in ANIMALS else "food" if word in FOODS else None
            lines.append(f"{word}\t{'O' if kind is None else f'B-{kind}'}")
        lines.append("")
    path.write_text("\n".join([*lines, "the\tO", "cat\tB-animal", "soup\tB-food", ""]), "utf-8")
    return path


def questions(path, count, seed, impossible=0.0):
    """Contexts with one animal, which every question asks for; some hold none."""
    draw = random.Random(seed)
    contexts = []
    for number in range(count):
        words, animal = draw.choices(COMMON, k=6), draw.choice(ANIMALS[:4])
        if draw.random() < impossible:
            answer = None
        else:
            words[draw.randrange(6)], answer = animal, animal
        contexts.append((" ".join(words), [(f"{seed}-{number}", "a animal ?", answer)]))
    return squad_file(path, contexts)


@pytest.mark.parametrize("head", ["transformers", "original"])
def test_regression_learns_a_number_from_words(discriminator, tmp_path, head):
    rows = [(text, "4.5" if label == "animal" else "0.5") for text, label in sentences(160, 1)]
    train = write_tsv(tmp_path / "train.tsv", rows)
    found = finetune(
        discriminator, tmp_path / "ft", task="regression", train=train, validation=train, head=head, epochs=10
    )
    assert found["summary"]["pretrained"]["validation"]["pearson"]["median"] > 0.8
    assert found["labels"] == [] and found["metric"] == "spearman"
    assert found["baselines"]["mean"]["validation"] == {"spearman": 0.0, "pearson": 0.0}
    lines = (tmp_path / "ft" / "seed-0" / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "index\tlabel\tpredicted" and len(lines) == 161
    assert abs(float(lines[1].split("\t")[2]) - 4.5) < 2, "in the labels' own unit"


def test_original_classification_head_learns_too(discriminator, tmp_path):
    train = write_tsv(tmp_path / "train.tsv", sentences(160, 1))
    found = finetune(discriminator, tmp_path / "ft", train=train, validation=train, head="original")
    assert found["summary"]["pretrained"]["validation"]["accuracy"]["median"] > 0.9
    assert found["head"].startswith("Google's")
    assert found["best"]["loads_by"] == "electra_ds.finetune.heads.ElectraForLinearClassification"


def test_tagging_learns_entities_and_saves_a_stock_model(discriminator, tmp_path):
    found = finetune(
        discriminator, tmp_path / "ft", task="tagging", train=tagged(tmp_path / "a.conll", 120, 1),
        validation=tagged(tmp_path / "b.conll", 30, 2), test=tagged(tmp_path / "c.conll", 30, 3), baseline=True,
    )  # fmt: skip
    assert found["summary"]["pretrained"]["test"]["f1"]["median"] > 0.8
    assert (
        found["baselines"]["majority"]["test"]["f1"] == 0.0 and found["baselines"]["entity_list"]["test"]["f1"] == 1.0
    )
    lines = (tmp_path / "ft" / "seed-0" / "predictions-test.conll").read_text().split("\n")
    assert len(lines[0].split("\t")) == 3 and "" in lines
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "ft" / "model")
    assert list(model.config.id2label.values()) == ["O", "B-animal", "I-animal", "B-food", "I-food"]


def test_question_answering_finds_the_word_and_saves_a_stock_model(discriminator, tmp_path):
    train = questions(tmp_path / "train.json", 200, 1)
    found = finetune(
        discriminator, tmp_path / "ft", task="question_answering", train=train,
        validation=questions(tmp_path / "dev.json", 40, 2), evaluate=f"de={questions(tmp_path / 'de.json', 20, 3)}",
        epochs=10,
    )  # fmt: skip
    scores = found["summary"]["pretrained"]
    assert scores["validation"]["exact_match"]["median"] > 0.6 and set(scores["de"]) == {"f1", "exact_match"}
    predicted = json.loads((tmp_path / "ft" / "seed-0" / "predictions-de.json").read_text())
    assert len(predicted) == 20
    transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "ft" / "model")


def test_original_question_answering_head_knows_when_there_is_no_answer(discriminator, tmp_path):
    found = finetune(
        discriminator, tmp_path / "ft", task="question_answering", head="original", epochs=10,
        train=questions(tmp_path / "train.json", 200, 1, impossible=0.4),
        validation=questions(tmp_path / "dev.json", 40, 2, impossible=0.4),
    )  # fmt: skip
    scores = found["summary"]["pretrained"]["validation"]
    assert found["metric"] == "best_f1" and scores["best_f1"]["median"] > 0.6
    assert scores["unanswerable"]["median"] > 0.5
    odds = json.loads((tmp_path / "ft" / "seed-0" / "null-odds.json").read_text())
    assert len(odds) == 40
    ElectraForJointQuestionAnswering.from_pretrained(tmp_path / "ft" / "model")


def test_multiple_choice_learns_which_choice_fits(discriminator, tmp_path):
    draw = random.Random(5)
    for name, count in (("train", 120), ("dev", 40)):
        rows = []
        for _ in range(count):
            place = draw.randrange(3)
            choices = [draw.choice(ANIMALS) if i == place else draw.choice(FOODS) for i in range(3)]
            rows.append(json.dumps({"text": "the animal is", "choices": choices, "label": place}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    files = {"train": tmp_path / "train.jsonl", "validation": tmp_path / "dev.jsonl"}
    found = finetune(discriminator, tmp_path / "ft", task="multiple_choice", **files)
    assert found["summary"]["pretrained"]["validation"]["accuracy"]["median"] > 0.8
    transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path / "ft" / "model")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "a", "choices": ["b"], "label": 0}', "1 choices, expected 2"),
        ('{"text": "a", "choices": ["b", "c"], "label": 2}', "label is 2, expected a number from 0 to 1, or a letter"),
        ('{"text": "a", "choices": ["b", ""], "label": 1}', "expected a text"),
        ('{"text": "a", "choices": "bc", "label": 1}', "expected a list of texts"),
        ('{"text": "a", "choices": ["b", "c"], "label": "²"}', "label is '²', expected a number from 0 to 1"),
        (
            '{"text": "a", "choices": ["b", "c"], "label": "11111111111111111111"}',
            "expected a number from 0 to 1",
        ),
    ],
)
def test_bad_rows_of_multiple_choice_are_refused(discriminator, tmp_path, capsys, row, message):
    (tmp_path / "a.jsonl").write_text(row + "\n")
    words = [f"--{name}={tmp_path / 'a.jsonl'}" for name in ("train", "validation")]
    arguments = [
        "finetune",
        f"--model={discriminator}",
        f"--output={tmp_path / 'ft'}",
        "--task=multiple_choice",
        *words,
    ]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_swags_columns_and_letters_as_labels(tmp_path):
    from electra_ds.finetune.config import FinetuneConfig
    from electra_ds.finetune.tasks import build_task

    (tmp_path / "a.csv").write_text("sent1,sent2,ending0,ending1,label\nA man sits.,He,stands up.,flies.,A\n")
    config = FinetuneConfig(
        model="m", output="o", task="multiple_choice",
        train=str(tmp_path / "a.csv"), validation=str(tmp_path / "a.csv"),
        text_column="sent1", text_pair_column="sent2", choice_columns="ending0,ending1",
    )  # fmt: skip
    example = build_task(config).read()["train"].examples[0]
    assert (example.text, example.choices, example.label) == ("A man sits.", ("He stands up.", "He flies."), 0)


@pytest.mark.parametrize("cell", ["null", "7", '""'])
def test_what_begins_every_choice_is_a_text_too(tmp_path, cell):
    row = f'{{"text": "a", "start": {cell}, "choices": ["b", "c"], "label": 0}}\n'
    (tmp_path / "a.jsonl").write_text(row)
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: .*, expected a text \(see --text_pair_column"):
        choice_task(tmp_path / "a.jsonl", text_pair_column="start").read()


def test_empty_texts_of_multiple_choice_are_counted_where_they_are_kept(tmp_path):
    rows = [("", "He", ["stands", ""]), ("a", "", ["b", "c"]), ("a", "b", ["c", "d"])]
    lines = [json.dumps(dict(zip(("text", "start", "choices"), row, strict=True)) | {"label": 0}) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    made = choice_task(tmp_path / "a.jsonl", text_pair_column="start", empty_texts="keep")
    split = made.read()["train"]
    assert split.counts["empty_texts"] == 3 == made.count(split.examples, True)["empty_texts"]
    assert [example.choices for example in split.examples] == [("He stands", "He"), ("b", "c"), ("b c", "b d")]


def choice_task(path, **options):
    from electra_ds.finetune.config import FinetuneConfig
    from electra_ds.finetune.tasks import build_task

    files = {"train": str(path), "validation": str(path)}
    return build_task(FinetuneConfig(model="m", output="o", task="multiple_choice", **files, **options))


def test_a_usual_length_is_cut_to_the_models_positions_and_said(
    discriminator, train_file, validation_file, tmp_path, capsys
):
    words = [
        f"--model={discriminator}", f"--train={train_file}", f"--validation={validation_file}",
        f"--output={tmp_path / 'ft'}", "--seeds=1", "--epochs=1",
    ]  # fmt: skip
    assert main(["finetune", *words]) == 0
    assert "has 64 positions; using 64" in capsys.readouterr().out
    assert json.loads((tmp_path / "ft" / "results.json").read_text())["settings"]["max_length"] == 64


def test_both_orders_double_the_training_pairs_only(tmp_path, discriminator):
    from electra_ds.finetune.config import FinetuneConfig
    from electra_ds.finetune.tasks import build_task

    path = write_tsv(tmp_path / "p.tsv", [("cat", "dog", "0"), ("soup", "rice", "1")], ("text", "text_pair", "label"))
    config = FinetuneConfig(model="m", output="o", train=str(path), validation=str(path), both_orders=True)
    task = build_task(config)
    splits = task.read()
    tokenizer = transformers.AutoTokenizer.from_pretrained(discriminator)
    train, validation = (task.encode(splits[name], tokenizer) for name in ("train", "validation"))
    assert [tokenizer.decode(f["input_ids"]) for f in train.features] == [
        "[CLS] cat [SEP] dog [SEP]", "[CLS] soup [SEP] rice [SEP]",
        "[CLS] dog [SEP] cat [SEP]", "[CLS] rice [SEP] soup [SEP]",
    ]  # fmt: skip
    assert [f["labels"] for f in train.features] == [0, 1, 0, 1] and train.notes == {"in_both_orders": 2}
    assert len(validation.features) == 2
