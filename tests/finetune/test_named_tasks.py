"""Named tasks read the files that are published under their names, as they are, and train by the paper's settings."""

import dataclasses
import json
import re

import numpy as np
import pytest

from electra_ds.errors import DataError, UserError
from electra_ds.finetune.command import _announce
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.presets import GLUE_AVERAGE, PRESETS, SUITES, resolve
from electra_ds.finetune.sources import find_sources, suite_folder
from electra_ds.finetune.tasks import build_task
from electra_ds.finetune.tasks.base import Encoded

MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2"
)
MNLI_ROW = "0\t1\t1n\tx\t(\t(\t(\t(\ta\tb"

GLUE_FILES = {
    "cola": {
        "train.tsv": 'gj04\t1\t\tHe said "no.\nclc95\t0\t*\tCat the.\n',
        "dev.tsv": "gj04\t1\t\tA cat.\n",
        "test.tsv": "index\tsentence\n0\tDogs bark.\n1\tBark dogs.\n",
    },
    "sst2": {
        "train.tsv": "sentence\tlabel\na good film \t1\na bad film \t0\n",
        "dev.tsv": "sentence\tlabel\nit 's good\t1\n",
        "test.tsv": "index\tsentence\n0\tbad\n1\tgood\n",
    },
    "mrpc": {
        "train.tsv": f"\ufeff{MRPC_HEADER}\r\n1\t7\t8\tA \"cat\".\tThe cat.\r\n0\t7\t9\tA dog.\tA cow.\r\n",
        "dev.tsv": f"{MRPC_HEADER}\n1\t1\t2\ta\tb\n",
        "test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\ta\tb\n",
    },
    "stsb": {
        "train.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tx\t2012\t1\tnone\tnone\ta\tb\t5.000\n1\tmain\tx\t2012\t2\tnone\tnone\tc\td\t0.400\n",
        "dev.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "0\tmain\tx\t2012\t1\tnone\tnone\ta\tb\t2.5\n",
        "test.tsv": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
        "0\tmain\tx\t2012\t1\tnone\tnone\ta\tb\n",
    },
    "qqp": {
        "train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta?\tb?\t0\n4\t5\t6\tc?\td?\t1\n",
        "dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta?\tb?\t0\n",
        "test.tsv": "id\tquestion1\tquestion2\n0\ta?\tb?\n",
    },
    "mnli": {
        "train.tsv": f"{MNLI_HEADER}\tlabel1\tgold_label\n0\t1\t1n\tx\t(\t(\t(\t(\ta\tb\tneutral\tneutral\n"
        "1\t1\t1n\tx\t(\t(\t(\t(\tc\td\tentailment\tentailment\n",
        "dev_matched.tsv": f"{MNLI_HEADER}\tlabel1\tlabel2\tgold_label\n{MNLI_ROW}\tneutral\tneutral\tcontradiction\n",
        "dev_mismatched.tsv": f"{MNLI_HEADER}\tlabel1\tlabel2\tgold_label\n{MNLI_ROW}\tneutral\tneutral\tneutral\n",
        "test_matched.tsv": f"{MNLI_HEADER}\n0\t1\t1n\tx\t(\t(\t(\t(\ta\tb\n",
        "test_mismatched.tsv": f"{MNLI_HEADER}\n0\t1\t1n\tx\t(\t(\t(\t(\ta\tb\n",
        "diagnostic.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n",
    },
    "qnli": {
        "train.tsv": "index\tquestion\tsentence\tlabel\n0\ta?\tb\tentailment\n1\tc?\td\tnot_entailment\n",
        "dev.tsv": "index\tquestion\tsentence\tlabel\n0\ta?\tb\tentailment\n",
        "test.tsv": "index\tquestion\tsentence\n0\ta?\tb\n",
    },
    "rte": {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n",
        "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n",
        "test.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n",
    },
    "wnli": {
        "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n1\tc\td\t0\n",
        "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t0\n",
        "test.tsv": "index\tsentence1\tsentence2\n0\ta\tb\n",
    },
}  # fmt: skip


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("utf-8"))
    return str(folder)


def named(task, **options):
    return build_task(FinetuneConfig(model="m", output="o", task=task, **options))


@pytest.mark.parametrize("task", GLUE_FILES)
def test_glues_own_layouts_are_read_and_answered_in_its_submission_form(task, tmp_path):
    made = named(task, data=write(tmp_path / task, GLUE_FILES[task]))
    splits = made.read()
    assert {split: len(part.examples) for split, part in splits.items()}["train"] == 2
    assert not splits["test"].labelled
    assert splits["train"].counts["pairs"] == bool(PRESETS[task].pair)
    outputs = np.zeros((len(splits["test"].examples), made.head_config()["num_labels"]), np.float32)
    outputs[:, -1] = 1.0
    for split, name in PRESETS[task].submission.items():
        assert made.write_submission(tmp_path / "submission", Encoded(splits[split], [], 0), outputs) == name
        lines = (tmp_path / "submission" / name).read_text().splitlines()
        last = "5.000" if task == "stsb" else made.labels[-1]
        assert lines[:2] == ["index\tprediction", f"0\t{last}"]
    assert made.write_submission(tmp_path / "submission", Encoded(splits["validation"], [], 0), outputs) is None


def test_a_test_file_without_glues_numbers_gets_no_submission_and_that_is_said(tmp_path):
    labelled = {**GLUE_FILES["sst2"], "test.tsv": "worse\t0\nbetter\t1\n"}
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    release = {"msr_paraphrase_train.txt": header + "1\t7\t8\ta\tb\n0\t7\t9\tc\td\n" * 2}
    twice = {**GLUE_FILES["sst2"], "test.tsv": "index\tsentence\n0\tbad\n0\tgood\n"}
    for number, (task, files, told) in enumerate([
        ("sst2", labelled, r"test: no SST-2\.tsv for GLUE's server is written: no column index or id or idx with"),
        ("sst2", twice, "two rows have the same number"),
        ("mrpc", {**release, "msr_paraphrase_test.txt": header + "1\t1\t2\ta\tb\n0\t1\t3\tc\td\n"}, None),
        ("mrpc", {**release, "msr_paraphrase_test.txt": header + "1\t1\t2\ta\tb\n\t3\td\n"}, "no column index or idx"),
    ]):  # fmt: skip
        made = named(task, data=write(tmp_path / str(number), files), bad_rows="drop")
        encoded = {name: Encoded(split, [], 0) for name, split in made.read().items()}
        outputs = np.eye(2, dtype=np.float32)[: len(encoded["test"].split.examples)]
        name = made.write_submission(tmp_path / f"submission-{number}", encoded["test"], outputs)
        config = dataclasses.replace(made.config, learning_rate=1e-3, layer_decay=1.0)
        lines = "\n".join(_announce(config, made, "small", encoded))
        assert name == (None if told else "MRPC.tsv")
        assert re.search(told, lines) if told else "GLUE's server" not in lines
    assert (tmp_path / "submission-2" / "MRPC.tsv").read_text() == "index\tprediction\n0\t0\n1\t1\n"
    assert not (tmp_path / "submission-0").exists()


def test_quotes_are_text_and_byte_order_marks_are_not(tmp_path):
    cola = named("cola", data=write(tmp_path / "cola", GLUE_FILES["cola"])).read()
    assert cola["train"].examples[0].text == 'He said "no.'
    mrpc = named("mrpc", data=write(tmp_path / "mrpc", GLUE_FILES["mrpc"])).read()
    assert (mrpc["train"].examples[0].text, mrpc["train"].examples[1].text_pair) == ('A "cat".', "A cow.")


def test_mnli_reads_gold_labels_and_both_validation_sets(tmp_path):
    splits = named("mnli", data=write(tmp_path, GLUE_FILES["mnli"])).read()
    assert splits["validation"].examples[0].label == "contradiction"
    assert (
        splits["mismatched"].labelled and not splits["test_mismatched"].labelled and not splits["diagnostic"].labelled
    )


def test_releases_outside_glue_are_read_by_their_own_names(tmp_path):
    cola = write(
        tmp_path / "cola",
        {
            "in_domain_train.tsv": "gj04\t1\t\ta\ngj04\t0\t*\tb\n",
            "in_domain_dev.tsv": "gj04\t1\t\tc\n",
            "out_of_domain_dev.tsv": "clc95\t0\t*\td\n",
        },
    )
    assert set(named("cola", data=cola).read()) == {"train", "validation", "out_of_domain"}
    sst2 = write(
        tmp_path / "sst2", {"train.tsv": "good\t1\nbad\t0\n", "dev.tsv": "fine\t1\n", "test.tsv": "worse\t0\n"}
    )
    splits = named("sst2", data=sst2).read()
    assert splits["train"].examples[0].text == "good" and splits["test"].labelled


def test_mrpc_without_validation_file_sets_training_pairs_aside_and_says_so(tmp_path):
    rows = "".join(f"{i % 2}\t{i}\t{i}\ta{i}\tb{i}\r\n" for i in range(40))
    data = write(
        tmp_path / "mrpc",
        {
            "msr_paraphrase_train.txt": f"\ufeff{MRPC_HEADER}\r\n{rows}",
            "msr_paraphrase_test.txt": f"{MRPC_HEADER}\r\n{rows}",
        },
    )
    splits = named("mrpc", data=data).read()
    assert (len(splits["train"].examples), len(splits["validation"].examples)) == (36, 4)
    assert "(10 % set aside, seed 0)" in splits["validation"].source and splits["train"].counts["held_out"] == 4
    texts = [{example.text for example in splits[name].examples} for name in ("train", "validation")]
    assert not texts[0] & texts[1] and len(texts[0] | texts[1]) == 40
    again, other = named("mrpc", data=data).read(), named("mrpc", data=data, held_out_seed=1).read()
    assert again["validation"].examples == splits["validation"].examples != other["validation"].examples
    told = named("mrpc", data=data, validation=f"{data}/msr_paraphrase_test.txt").read()
    assert len(told["train"].examples) == 40 and told["validation"].source.endswith("msr_paraphrase_test.txt")


def test_texts_are_not_set_aside_where_there_is_a_validation_file(tmp_path):
    data = write(tmp_path / "sst2", GLUE_FILES["sst2"])
    with pytest.raises(UserError, match=r"held_out: .*dev\.tsv is there for that"):
        named("sst2", data=data, held_out=0.2).read()


def test_names_of_labels_on_the_hub_mean_the_same(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["negative", "positive"]),
            "idx": datasets.Value("int32"),
        }
    )
    data = datasets.DatasetDict({
        name: datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": labels, "idx": [5, 6]}, features=features)
        for name, labels in (("train", [0, 1]), ("validation", [1, 1]), ("test", [-1, -1]))
    })  # fmt: skip
    data.save_to_disk(str(tmp_path / "set"))
    options = {name: f"hf:{tmp_path / 'set'}:{name}" for name in ("train", "validation", "test")}
    made = named("sst2", **options)
    splits = made.read()
    assert [example.label for example in splits["train"].examples] == ["0", "1"]
    assert not splits["test"].labelled
    outputs = np.array([[1, 0], [0, 1]], np.float32)
    assert made.submission_rows(Encoded(splits["test"], [], 0), outputs) == [("5", "0"), ("6", "1")]


def test_without_files_a_named_task_comes_from_the_hub():
    found = find_sources(FinetuneConfig(model="m", output="o", task="mnli"))
    assert found.train == "hf:nyu-mll/glue/mnli:train"
    assert found.further["test_mismatched"] == "hf:nyu-mll/glue/mnli:test_mismatched"
    conll = find_sources(FinetuneConfig(model="m", output="o", task="conll2003"))
    assert conll.train == "hf:eriktks/conll2003@refs/convert/parquet:train"


def test_xquad_files_are_found_by_language(tmp_path):
    for name in ("xquad-de.json", "xquad.es.json"):
        write(tmp_path, {name: "{}"})
    found = find_sources(FinetuneConfig(model="m", output="o", task="xquad", data=str(tmp_path), train="t.json"))
    assert set(found.further) == {"de", "es"} and found.held_out == 0.1
    with pytest.raises(DataError, match=r"has no training texts of xquad.*--train"):
        find_sources(FinetuneConfig(model="m", output="o", task="xquad", data=str(tmp_path)))


@pytest.mark.parametrize(
    ("task", "epochs", "length", "orders", "metric"),
    [
        ("cola", 3, 128, False, "matthews"),
        ("rte", 10, 128, False, "accuracy"),
        ("stsb", 10, 128, True, "spearman"),
        ("mrpc", 3, 128, True, "accuracy"),
        ("squad_v1", 2, 512, False, "f1"),
        ("squad_v2", 2, 512, False, "best_f1"),
        ("wnut17", 3, 128, False, "f1"),
    ],
)
def test_defaults_by_task_are_the_papers(task, epochs, length, orders, metric):
    found = resolve(FinetuneConfig(model="m", output="o", task=task))
    assert (found.epochs, found.max_length, found.both_orders, found.metric) == (epochs, length, orders, metric)
    given = resolve(FinetuneConfig(model="m", output="o", task=task, epochs=1, max_length=16, both_orders=False))
    assert (given.epochs, given.max_length, given.both_orders) == (1, 16, False)


def test_every_task_of_a_suite_is_known_and_glues_average_has_eight():
    assert all(task in PRESETS for tasks in SUITES.values() for task in tasks)
    assert len(GLUE_AVERAGE) == 8 and "wnli" not in GLUE_AVERAGE


@pytest.mark.parametrize(
    ("task", "files", "options", "message"),
    [
        (
            "sst2", {"train.tsv": "good\t1\nbad\t2\n", "dev.tsv": "x\t0\n"}, {},
            r"labels that sst2 does not have: '2' \(1 rows\)",
        ),
        ("sst2", {"train.tsv": "good\t1\nbad\t0\n", "dev.tsv": "sentence\nx\n"}, {}, "no column 'label'"),
        ("sst2", {"train.tsv": "a\tb\tc\nd\te\tf\n", "dev.tsv": "x\t0\n"}, {}, "3 columns without a line of names"),
        ("sst2", {"dev.tsv": "x\t0\n"}, {}, r"no training texts of sst2 \(train.tsv\)"),
        ("sst2", {"other.tsv": ""}, {}, "no file of sst2; looked for train.tsv"),
        (
            "stsb", {"train.tsv": "sentence1\tsentence2\tscore\na\tb\thigh\n", "dev.tsv": "x"}, {},
            "label is 'high', expected a number",
        ),
        ("qqp", {"train.tsv": GLUE_FILES["qqp"]["train.tsv"] + "9\tbroken\n"}, {}, "line 4: 2 fields.*--bad_rows drop"),
        (
            "sst2", {"train.tsv": "good\t1\nbad\t0\n", "dev.tsv": "x\t0\n", "test.tsv": "sentence\tlabel\nx\t7\n"}, {},
            "labels that sst2 does not have: '7'",
        ),
    ],
)  # fmt: skip
def test_bad_files_of_named_tasks_are_refused(tmp_path, task, files, options, message):
    with pytest.raises(DataError, match=message):
        named(task, data=write(tmp_path / "files", files), **options).read()


def test_broken_lines_can_be_dropped_and_are_counted(tmp_path):
    files = {**GLUE_FILES["qqp"], "train.tsv": GLUE_FILES["qqp"]["train.tsv"] + "9\tbroken\n"}
    splits = named("qqp", data=write(tmp_path / "qqp", files), bad_rows="drop").read()
    assert splits["train"].counts["dropped_rows"] == 1 and splits["train"].counts["rows"] == 2


def test_a_suite_tells_folders_apart_by_their_names(tmp_path):
    write(tmp_path / "CoLA", GLUE_FILES["cola"])
    write(tmp_path / "SST-2", GLUE_FILES["sst2"])
    write(tmp_path, {"train.tsv": "sentence\tlabel\na\t1\n", "wnut17train.conll": "a\tO\n"})
    assert suite_folder("cola", tmp_path) == tmp_path / "CoLA"
    assert suite_folder("sst2", tmp_path) == tmp_path / "SST-2"
    assert suite_folder("wnut17", tmp_path) == tmp_path, "its file names it"
    assert suite_folder("rte", tmp_path) is None, "train.tsv could be any task's"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classification", "data": "d"}, "data: a folder serves named tasks"),
        ({"task": "classification", "train": "t"}, "validation: no validation texts"),
        ({"task": "classification"}, "train: no training texts"),
        ({"task": "xquad"}, None),
        ({"task": "sst2", "evaluate": "x"}, "expected NAME=SOURCE"),
        ({"task": "sst2", "evaluate": "test=x"}, "the name 'test' is taken"),
        ({"task": "sst2", "validation": "v", "held_out": 0.1}, "held_out: sets training texts aside"),
        ({"task": "sst2", "patience": 2}, "patience: counts evaluations"),
        ({"task": "sst2", "evaluate_unseen": True}, "question answering only"),
        ({"suite": "gleu"}, "did you mean 'glue'"),
        ({"suite": "glue", "tasks": "wnut17"}, "'wnut17' is not in the suite glue"),
        ({"suite": "glue", "train": "t"}, "train: belongs to one task"),
        ({"task": "sst2", "tasks": "sst2"}, "without a suite"),
        ({"task": "stsb", "baseline": True}, "baseline: true, but stsb has none beyond the training mean"),
        ({"task": "squad_v1", "baseline": True}, "baseline: true, but squad_v1 has none beyond the network's own"),
        (
            {"task": "multiple_choice", "train": "t", "validation": "v", "baseline": True},
            "has none beyond the most frequent place.*it serves classification and tagging",
        ),
        ({"task": "sst3"}, "did you mean 'sst2'"),
    ],
)
def test_contradicting_settings_are_refused(options, message):
    if message is None:
        with pytest.raises(UserError, match="has no data set of its own"):
            find_sources(FinetuneConfig(model="m", output="o", **options))
        return
    with pytest.raises(UserError, match=message):
        FinetuneConfig(model="m", output="o", **options)


def test_regression_scales_sts_by_five_and_other_labels_by_their_spread(tmp_path):
    made = named("stsb", data=write(tmp_path / "s", GLUE_FILES["stsb"]))
    made.read()
    assert made.target(5.0) == 1.0 and made.head_config()["label_scale"] == 5.0
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": value}) + "\n" for value in (10, 20, 30)))
    other = named("regression", train=str(path), validation=str(path))
    other.read()
    assert [other.target(value) for value in (10, 20, 30)] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
