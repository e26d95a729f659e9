"""Robustness of tagging and question answering, and of classifiers on files of another form, against plain loops."""

import json
import shutil

import numpy as np
import pytest
import torch
from seqeval.metrics import accuracy_score, f1_score
from transformers import AutoTokenizer, ElectraForQuestionAnswering, ElectraForTokenClassification

from electra_ds.cli import main
from electra_ds.evaluate.perturb import CASINGS, Typist
from electra_ds.finetune import answers
from tests.evaluate.conftest import results, side_by_side

TAGS = ("O", "B-file", "I-file", "B-kind", "I-kind")
WORDS = ["file", "List", "value", "returns", "the", "name", "of", "module", "if", "None", ",", "it's", "x", "7"]


def save(network, hf, folder, cased=False):
    """As `finetune` saves a model; `cased`: capitals are tokens of their own, which this vocabulary does not know."""
    network.eval().save_pretrained(folder)
    changes = {"do_lower_case": False} if cased else {}
    tokenizer = AutoTokenizer.from_pretrained(str(hf / "discriminator"), **changes)
    tokenizer.save_pretrained(folder)
    assert (tokenizer.tokenize("List") != tokenizer.tokenize("list")) == cased
    return folder


@pytest.fixture(scope="module")
def tagger(hf, tmp_path_factory):
    """A random tagger whose head says different things of different words."""
    torch.manual_seed(0)
    labels = dict(enumerate(TAGS))
    network = ElectraForTokenClassification.from_pretrained(
        str(hf / "discriminator"), num_labels=len(TAGS), id2label=labels, label2id={tag: n for n, tag in labels.items()}
    )
    with torch.no_grad():
        network.classifier.weight.normal_(0, 2)
    return save(network, hf, tmp_path_factory.mktemp("tagger") / "model", cased=True)


@pytest.fixture(scope="module")
def answerer(hf, tmp_path_factory):
    torch.manual_seed(0)
    network = ElectraForQuestionAnswering.from_pretrained(str(hf / "discriminator"))
    with torch.no_grad():
        network.qa_outputs.weight.normal_(0, 2)
    return save(network, hf, tmp_path_factory.mktemp("answerer") / "model", cased=True)


def write_conll(path, rows, seed):
    """Sentences of a few words, tagged at random in valid BIO."""
    draw, lines = np.random.default_rng(seed), []
    for _ in range(rows):
        before = "O"
        for word in draw.choice(WORDS, draw.integers(3, 9)):
            allowed = [tag for tag in TAGS if tag[0] != "I" or before[1:] == tag[1:]]
            before = str(draw.choice(allowed))
            lines.append(f"{word}\t{before}")
        lines.append("")
    path.write_text("\n".join(lines), "utf-8")
    return path


def read_conll(path):
    blocks = [block.split("\n") for block in path.read_text("utf-8").strip().split("\n\n")]
    return [[tuple(line.split("\t")) for line in block] for block in blocks]


def tagged(folder, sentences):
    """One sentence at a time: the tag at the first piece of each word."""
    network = ElectraForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for words in sentences:
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        places = encoded.word_ids()
        with torch.no_grad():
            said = network(**{key: encoded[key] for key in ("input_ids", "attention_mask")}).logits[0].argmax(-1)
        found.append([TAGS[int(said[places.index(number)])] for number in range(len(words))])
    return found


@pytest.fixture(scope="module")
def tagging(tagger, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagging")
    data, other = write_conll(folder / "in.conll", 30, 1), write_conll(folder / "emerging.annotated", 20, 2)
    words = ["--model", tagger, "--data", data, "--other", other, "--output", folder / "out", "--bootstrap", 20,
             "--draws", 2, "--typos", "typo,drop", "--rates", "0.5"]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    return folder, results(folder / "out")


def test_tags_of_unchanged_and_changed_words_are_those_of_the_model(tagging, tagger):
    folder, found = tagging
    sentences = read_conll(folder / "in.conll")
    words, truth = ([[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1))
    clean = tagged(tagger, words)
    assert found["clean"]["f1"]["value"] == pytest.approx(f1_score(truth, clean)) and f1_score(truth, clean) > 0
    assert found["clean"]["accuracy"]["value"] == pytest.approx(accuracy_score(truth, clean))
    typist = Typist("qwerty", 0)
    drawn = []
    for draw in range(2):
        typed = [typist("\n".join(line), f"{draw}/{n}", "drop", 0.5).split("\n") for n, line in enumerate(words)]
        assert all(len(one) == len(other) for one, other in zip(typed, words, strict=True)) and typed != words
        drawn.append(tagged(tagger, typed))
    variants = {(one["group"], one["name"]): one for one in found["variants"]}
    # Counts of the draws are averaged, not their scores.
    both = f1_score(truth + truth, drawn[0] + drawn[1])
    assert variants["typos", "drop"]["scores"]["f1"]["value"] == pytest.approx(both)
    assert variants["typos", "drop"]["drop_of_score"]["f1"]["value"] == pytest.approx(f1_score(truth, clean) - both)
    upper = tagged(tagger, [[CASINGS["upper"](word) for word in line] for line in words])
    assert variants["casing", "upper"]["scores"]["f1"]["value"] == pytest.approx(f1_score(truth, upper))
    assert 0 < variants["casing", "upper"]["texts_changed"] <= 1


def test_punctuation_of_tagged_sentences_stays_and_it_is_said(tagging):
    found = tagging[1]
    assert [one["group"] for one in found["variants"]] == ["typos", "typos", "casing", "casing", "casing"]
    assert found["notes"] == ["Punctuation was not dropped: words of it would be none, and every word has a tag."]
    assert found["metric"] == "f1" and found["units"] == "sentences" and found["labels"] == list(TAGS)


def test_tagging_on_another_corpus(tagging, tagger):
    folder, found = tagging
    sentences = read_conll(folder / "emerging.annotated")
    words, truth = ([[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1))
    (other,) = found["other"]
    assert other["rows"] == 20 and other["scores"]["f1"]["value"] == pytest.approx(
        f1_score(truth, tagged(tagger, words))
    )
    page = (folder / "out" / "report.md").read_text("utf-8")
    assert "F1 on the unchanged texts" in page and "emerging.annotated" in page
    assert len(side_by_side(found, found)) == 1


def test_a_line_break_inside_a_word_makes_no_second_one(tagger, tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": ["the\nfile", "name"], "tags": ["B-file", "O"]}), "utf-8")
    words = ["--model", tagger, "--data", tmp_path / "in.jsonl", "--output", tmp_path / "out", "--bootstrap", 0]
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    assert results(tmp_path / "out")["data"]["rows"] == 1


def write_squad(path, rows, seed, extra=()):
    draw, paragraphs = np.random.default_rng(seed), []
    texts = [" ".join(draw.choice(WORDS, 14)) for _ in range(rows)]
    for number, context in enumerate([*texts, *extra]):
        answer = context.split(" ")[2 + number % 5]
        question = f"Which {' '.join(draw.choice(WORDS, 3))}"
        start = context.index(answer)
        qas = [{"id": f"{seed}-{number}", "question": question, "answers": [{"text": answer, "answer_start": start}]}]
        paragraphs.append({"context": context, "qas": qas})
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}), "utf-8")
    return path


def read_squad(path):
    paragraphs = json.loads(path.read_text("utf-8"))["data"][0]["paragraphs"]
    return [(one["qas"][0]["question"], one["context"], one["qas"][0]["answers"][0]["text"]) for one in paragraphs]


def answered(folder, questions):
    """One question at a time: the best span of the context among all, by the sum of its logits."""
    network = ElectraForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for question, context, _ in questions:
        encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets, parts = encoded.pop("offset_mapping")[0].tolist(), encoded.sequence_ids(0)
        with torch.no_grad():
            said = network(**encoded)
        inside = [place for place, part in enumerate(parts) if part == 1]
        _, start, end = max(
            (float(said.start_logits[0, i]) + float(said.end_logits[0, j]), i, j)
            for i in inside
            for j in inside
            if i <= j
        )
        found.append(context[offsets[start][0] : offsets[end][1]])
    return found


@pytest.fixture(scope="module")
def answering(answerer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answering")
    longer = "İ the List of None value returns it's x name"  # the first letter becomes two in lower case
    data = write_squad(folder / "es.json", 25, 1, [longer])
    other = write_squad(folder / "de.json", 15, 2)
    words = ["--model", answerer, "--data", data, "--other", other, "--output", folder / "out", "--bootstrap", 20]
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    return folder, results(folder / "out")


def mean_f1(questions, found):
    return np.mean([answers.f1([right], text) for (_, _, right), text in zip(questions, found, strict=True)])


def test_answers_in_lower_case_are_those_of_the_model(answering, answerer):
    folder, found = answering
    questions = read_squad(folder / "es.json")
    clean = answered(answerer, questions)
    assert found["clean"]["f1"]["value"] == pytest.approx(mean_f1(questions, clean)) and mean_f1(questions, clean) > 0
    exact = [answers.exact_match([right], text) for (_, _, right), text in zip(questions, clean, strict=True)]
    assert found["clean"]["exact_match"]["value"] == pytest.approx(np.mean(exact))
    kept = questions[:-1]
    small = [tuple(text.lower() for text in one) for one in kept]
    (lower,) = found["variants"]
    assert (lower["group"], lower["name"], lower["left_out"]) == ("casing", "lower", 1) and lower["texts_changed"] > 0
    changed = mean_f1(small, answered(answerer, small))
    assert lower["scores"]["f1"]["value"] == pytest.approx(changed)
    assert lower["drop_of_score"]["f1"]["value"] == pytest.approx(mean_f1(kept, clean[:-1]) - changed)


def test_what_was_left_out_of_questions_is_said(answering):
    found = answering[1]
    assert found["notes"][0].startswith("Of the changes only lower case was made")
    assert found["notes"][1].startswith("1 of 26 questions were left out in lower case, on both sides")
    assert found["data"]["rows"] == 26 and found["metric"] == "f1" and found["units"] == "questions"
    page = (answering[0] / "out" / "report.md").read_text("utf-8")
    assert "| lower case |" in page and "de.json" in page
    assert len(side_by_side(found, found)) == 1


def test_questions_on_another_corpus(answering, answerer):
    folder, found = answering
    questions = read_squad(folder / "de.json")
    (other,) = found["other"]
    assert other["rows"] == 15
    assert other["scores"]["f1"]["value"] == pytest.approx(mean_f1(questions, answered(answerer, questions)))


def test_unanswerable_questions_are_right_where_none_is_given(answerer, tmp_path):
    path = write_squad(tmp_path / "in.json", 6, 3)
    value = json.loads(path.read_text("utf-8"))
    for paragraph in value["data"][0]["paragraphs"][::2]:
        paragraph["qas"][0] |= {"answers": [], "is_impossible": True}
    path.write_text(json.dumps(value), "utf-8")
    words = ["--model", answerer, "--data", path, "--output", tmp_path / "out", "--bootstrap", 0, "--casing", "false"]
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    scores = results(tmp_path / "out")["clean"]
    assert 0 <= scores["exact_match"]["value"] <= scores["f1"]["value"] <= 1


def test_the_joint_head_of_google_is_scored(hf, tmp_path):
    from transformers import ElectraConfig

    from electra_ds.finetune.heads import ElectraForJointQuestionAnswering

    torch.manual_seed(1)
    config = ElectraConfig.from_pretrained(str(hf / "discriminator"))
    config.answerability, config.beam = True, 5
    network = ElectraForJointQuestionAnswering.from_pretrained(str(hf / "discriminator"), config=config)
    folder = save(network, hf, tmp_path / "model")
    path = write_squad(tmp_path / "in.json", 8, 4)
    words = ["--model", folder, "--data", path, "--output", tmp_path / "out", "--bootstrap", 5]
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    found = results(tmp_path / "out")
    assert found["clean"]["f1"]["value"] is not None
    assert found["notes"][0].startswith("Casing changes nothing: the tokenizer is uncased, every text has the same")
    assert found["notes"][0].endswith("in lower case.")


@pytest.fixture(scope="module")
def classifier(hf, tmp_path_factory):
    from transformers import ElectraForSequenceClassification

    torch.manual_seed(0)
    network = ElectraForSequenceClassification.from_pretrained(
        str(hf / "discriminator"), num_labels=2, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1}
    )
    with torch.no_grad():
        network.classifier.out_proj.weight.normal_(0, 2)
    return save(network, hf, tmp_path_factory.mktemp("classifier") / "model")


def test_another_corpus_may_have_other_columns_format_and_names_of_labels(classifier, tmp_path):
    draw = np.random.default_rng(0)
    rows = [(" ".join(draw.choice(WORDS, 7)), int(draw.integers(2))) for _ in range(30)]
    (tmp_path / "dev.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows), "utf-8")
    names = ["negative", "positive"]
    reviews = [{"id": n, "review": text, "sentiment": names[label]} for n, (text, label) in enumerate(rows)]
    (tmp_path / "reviews.data").write_text("".join(json.dumps(one) + "\n" for one in reviews), "utf-8")
    words = ["--model", classifier, "--data", tmp_path / "dev.tsv", "--text_column", 0, "--label_column", 1, "--other",
             tmp_path / "reviews.data", "--other_text_column", "review", "--other_label_column", "sentiment",
             "--other_format", "jsonl", "--other_label_names", "negative,positive", "--output", tmp_path / "out",
             "--typos", "", "--casing", "false", "--bootstrap", 5]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    found = results(tmp_path / "out")
    (other,) = found["other"]
    assert other["rows"] == 30 and other["scores"]["accuracy"]["value"] == found["clean"]["accuracy"]["value"]


def test_a_headerless_other_file_beside_one_with_names(classifier, tmp_path):
    rows = [("the file", 0), ("a List of names", 1)]
    (tmp_path / "in.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), "utf-8")
    (tmp_path / "out.csv").write_text("".join(f"{label},{text}\n" for text, label in rows), "utf-8")
    words = ["--model", classifier, "--data", tmp_path / "in.tsv", "--other", tmp_path / "out.csv",
             "--other_text_column", 1, "--other_label_column", 0, "--output", tmp_path / "out", "--typos", "",
             "--bootstrap", 0]  # fmt: skip
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    assert results(tmp_path / "out")["other"][0]["rows"] == 2


@pytest.mark.parametrize("kind", ["zero-shot", "robustness"])
@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        (write_conll, "emerging.test.annotated", "a word and its tag in each line (CoNLL columns)"),
        (write_squad, "xquad-de.json", "questions on contexts (SQuAD's form)"),
    ],
)
def test_files_of_other_tasks_are_no_texts_with_labels(hf, classifier, tmp_path, capsys, kind, write, name, said):
    options = ["--data", write(tmp_path / name, 6, 0), "--output", tmp_path / "out"]
    options += ["--model", hf, "--labels", "0=bad,1=good"] if kind == "zero-shot" else ["--model", classifier]
    assert main(["evaluate", kind, *map(str, options)]) == 2
    told = capsys.readouterr().err
    assert f"{name}: holds {said}" in told and "electra-ds evaluate robustness" in told


def test_kinds_that_cannot_be_measured_are_refused(hf, tagger, answerer, classifier, tmp_path, capsys):
    from transformers import ElectraForMultipleChoice

    folder = save(ElectraForMultipleChoice.from_pretrained(str(hf / "discriminator")), hf, tmp_path / "choice")
    shutil.copytree(tagger, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "config.json").read_text("utf-8"))
    config["id2label"]["1"] = "file"
    (tmp_path / "odd" / "config.json").write_text(json.dumps(config), "utf-8")
    data = write_conll(tmp_path / "in.conll", 3, 0)
    for model, options, message in (
        (folder, [], "chooses among answers (ElectraForMultipleChoice)"),
        (tmp_path / "odd", [], "has the tags O, file"),
        (answerer, ["--label_names", "a,b"], "answers questions and has no labels"),
        (tagger, ["--metric", "matthews"], "expected one of f1, accuracy"),
        (tagger, ["--max_length", 65], "takes 64 tokens"),
        (classifier, ["--other_label_names", "a"], "other_label_names: 'a', expected 2 different names"),
    ):
        words = ["--model", model, "--data", data, "--output", tmp_path / "out", *options]
        assert main(["evaluate", "robustness", *map(str, words)]) == 2
        assert message in capsys.readouterr().err


def test_types_that_a_tagger_does_not_know_are_refused(tagger, tmp_path, capsys):
    (tmp_path / "in.conll").write_text("the\tO\nfile\tB-person\n", "utf-8")
    words = ["--model", str(tagger), "--data", str(tmp_path / "in.conll"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", "robustness", *words]) == 2
    assert "entities of type 'person'" in capsys.readouterr().err


def test_questions_that_are_cut_are_counted_apart_from_texts_that_are(answerer, tmp_path):
    path = write_squad(tmp_path / "in.json", 3, 5)
    value = json.loads(path.read_text("utf-8"))
    value["data"][0]["paragraphs"][0]["qas"][0]["question"] = "which name " * 40
    path.write_text(json.dumps(value), "utf-8")
    words = ["--model", answerer, "--data", path, "--output", tmp_path / "out", "--bootstrap", 0]
    assert main(["evaluate", "robustness", *map(str, words)]) == 0
    found = results(tmp_path / "out")
    assert found["data"]["truncated"] == 0 and "is the most: 1." in " ".join(found["notes"])
