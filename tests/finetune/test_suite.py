"""A suite runs what it finds, goes on after a failure, and says in one table what came out."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from electra_ds.cli import main
from electra_ds.errors import DataError, UserError
from electra_ds.finetune import suite_table
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.presets import GLUE_AVERAGE, SUITES
from electra_ds.finetune.suite import Candidate, find_tasks, parse_models, task_config
from electra_ds.finetune.suite_table import glue_average
from tests.finetune.conftest import sentences, write_tsv
from tests.finetune.test_named_tasks import GLUE_FILES, write

QUICK = ["--seeds=1", "--epochs=1", "--max_length=32", "--batch_size=16"]


def texts(folder, test):
    """SST-2 in GLUE's layout from our sentences."""
    folder.mkdir(parents=True)
    rows = [(text, "1" if label == "animal" else "0") for text, label in sentences(32, 1)]
    write_tsv(folder / "train.tsv", rows, ("sentence", "label"))
    write_tsv(folder / "dev.tsv", rows[:10], ("sentence", "label"))
    write_tsv(folder / "test.tsv", test, ("index", "sentence"))


@pytest.fixture(scope="module")
def finished(discriminator, tmp_path_factory):
    """A suite of two models; MRPC has a broken file."""
    folder = tmp_path_factory.mktemp("suite")
    texts(folder / "data" / "SST-2", [("0", "the cat"), ("1", "a soup")])
    write(folder / "data" / "STS-B", GLUE_FILES["stsb"])
    write(folder / "data" / "MRPC", {"msr_paraphrase_train.txt": "Quality\t#1 String\t#2 String\n1\ta\n"})
    models = f"first={discriminator},second={discriminator}"
    arguments = ["--suite=glue", f"--data={folder / 'data'}", f"--model={models}", f"--output={folder / 'out'}", *QUICK]
    assert main(["finetune", *arguments]) == 1
    return folder, arguments


def test_every_task_that_is_found_runs_and_a_failure_is_told(finished):
    folder, _ = finished
    table = json.loads((folder / "out" / "suite.json").read_text())
    assert table["tasks"] == ["sst2", "mrpc", "stsb"]
    assert set(table["without_files"]) == {"cola", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert [(entry["model"], entry["task"]) for entry in table["failed"]] == [("first", "mrpc"), ("second", "mrpc")]
    assert "2 fields, but 3" in table["failed"][0]["error"]
    for model in ("first", "second"):
        for task in ("sst2", "stsb"):
            results = json.loads((folder / "out" / model / task / "results.json").read_text())
            entry = table["results"][model][task]["validation"]
            assert entry["scores"] == [run["scores"]["validation"][results["metric"]] for run in results["runs"]]
            assert entry["median"] == results["summary"]["pretrained"]["validation"][results["metric"]]["median"]


def test_table_has_both_models_and_says_what_the_average_lacks(finished):
    text = (finished[0] / "out" / "suite.md").read_text()
    assert "| task | metric | rows | majority | first | second |" in text
    assert "| SST-2 | accuracy | 10 | 50.0 |" in text and "| STS-B | spearman | 1 |" in text
    assert "Scores on validation, in percent, correlations as numbers" in text and "Scores on test" not in text
    assert "GLUE average of first: none, without cola, mrpc, qqp, mnli, qnli, rte." in text
    assert "Failed: mrpc on second" in text and "nan" not in text


def test_plot_is_svg_with_a_dot_for_each_seed(finished):
    root = ElementTree.parse(finished[0] / "out" / "suite.svg").getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter("{http://www.w3.org/2000/svg}use"))) >= 4


def test_submission_files_of_all_tasks_lie_together(finished):
    folder = finished[0] / "out" / "first" / "submission"
    assert sorted(path.name for path in folder.iterdir()) == ["SST-2.tsv", "STS-B.tsv"]
    assert (folder / "SST-2.tsv").read_text().splitlines()[0] == "index\tprediction"


def test_the_same_command_runs_only_what_failed(finished, capsys):
    folder, arguments = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*/*/results.json")}
    write(folder / "data" / "MRPC", {"msr_paraphrase_train.txt": GLUE_FILES["mrpc"]["train.tsv"]})
    capsys.readouterr()
    assert main(["finetune", *arguments]) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    table = json.loads((folder / "out" / "suite.json").read_text())
    assert table["failed"] == [] and set(table["results"]["first"]) == {"sst2", "mrpc", "stsb"}
    assert "mrpc: no validation texts of their own" in (folder / "out" / "suite.md").read_text()
    assert main(["finetune", *arguments, "--dropout=0.2"]) == 1
    assert "holds results of another dropout (0.1, now 0.2)" in capsys.readouterr().err


def test_finished_results_of_other_settings_texts_or_weights_are_not_taken(finished, tmp_path, capsys):
    folder, arguments = finished
    shutil.copytree(folder / "out", tmp_path / "out")
    path, train = tmp_path / "out" / "first" / "sst2" / "results.json", folder / "data" / "SST-2" / "train.tsv"
    model = next(word for word in arguments if word.startswith("--model=")).split(",")[0]
    kept = [word for word in arguments if not word.startswith(("--model", "--output"))]
    results, texts_there = json.loads(path.read_text()), train.read_text()

    def again(*words, **changes):
        path.write_text(json.dumps(results | changes))
        status = main(["finetune", *kept, model, f"--output={tmp_path / 'out'}", "--tasks=sst2", *words])
        found = capsys.readouterr()
        return status, found.out + found.err

    assert again()[0] == 0 and "first/sst2/results.json\n" in again()[1]
    assert "results of another max_length (32, now 16)" in again("--max_length=16")[1]
    changed = results["settings"] | {"learning_rate": 0.5, "stride": 64}
    status, said = again(settings=changed)
    assert status == 1 and "results of another stride (64, now 128)" in said
    assert "another learning_rate (0.5, now 0.0003)" in again("--stride=64", settings=changed)[1]
    weights = results["fingerprint"] | {"model": "0"}
    assert "holds results of other weights than" in again(fingerprint=weights)[1]
    try:
        train.write_text(texts_there.replace("cat", "dog"))
        assert "holds results of other texts than" in again()[1]
    finally:
        train.write_text(texts_there)
    del results["fingerprint"]
    status, said = again()
    assert status == 0 and "an earlier version's, which kept no digest of its texts and weights" in said


def test_average_is_the_mean_of_eight_medians_or_none():
    def results(scores):
        runs = [{"initialization": "pretrained", "scores": {"validation": {"x": score}}} for score in scores]
        return {"metric": "x", "runs": runs, "data": {"validation": {"rows": 1}}}

    done = {("m", task): results([0.1 * place, 0.9, 0.0]) for place, task in enumerate(GLUE_AVERAGE)}
    assert glue_average(done, ("m", "pretrained"))["average"] == pytest.approx(sum(0.1 * i for i in range(8)) / 8)
    del done["m", "rte"]
    assert glue_average(done, ("m", "pretrained")) == {"average": None, "missing": ["rte"]}


def test_an_average_with_half_of_colas_validation_texts_is_marked(tmp_path):
    runs = [{"initialization": "pretrained", "scores": {"validation": {"x": 0.5}}}]
    results = {"metric": "x", "runs": runs, "data": {"validation": {"rows": 527, "source": "d/dev.tsv"}}}
    results |= {"settings": {"seeds": 1}, "baselines": {}}
    done = {("m", task): results for task in GLUE_AVERAGE}
    config, models = FinetuneConfig(model="m", output="o", suite="glue"), [Candidate("m", "m")]

    def written(source):
        done["m", "cola"] = {**results, "data": {"validation": {"rows": 527, "source": source}}}
        suite_table.write(tmp_path, config, models, list(GLUE_AVERAGE), [], done, {})
        table = json.loads((tmp_path / "suite.json").read_text())
        return table["glue_average"]["m"], (tmp_path / "suite.md").read_text()

    average, page = written("d/in_domain_dev.tsv")
    assert average == {"average": 0.5, "missing": [], "partial": ["cola"]}
    assert "cola: validated on in_domain_dev.tsv (527 rows), a part of GLUE's dev.tsv, so" in page
    average, page = written("d/dev.tsv")
    assert "partial" not in average and "a part of" not in page


def test_a_suite_adds_baselines_where_there_are_some():
    config = FinetuneConfig(model="m", output="o", suite="all", baseline=True)
    added = {task: task_config(config, Candidate("m", "m"), task, None).baseline for task in SUITES["all"]}
    assert [task for task, there in added.items() if not there] == ["stsb", "squad_v1", "squad_v2"]


def test_models_and_folders_of_a_suite(tmp_path):
    assert [(c.name, c.path) for c in parse_models("runs/a/hf, b=hf:google/x")] == [
        ("hf", "runs/a/hf"),
        ("b", "hf:google/x"),
    ]
    with pytest.raises(UserError, match="two models are called 'hf'"):
        parse_models("a/hf,b/hf")
    with pytest.raises(DataError, match="holds no training texts of cola"):
        find_tasks(FinetuneConfig(model="m", output="o", suite="glue", data=str(tmp_path)))
    assert set(find_tasks(FinetuneConfig(model="m", output="o", suite="glue"))[0]) == {*GLUE_AVERAGE, "wnli"}
