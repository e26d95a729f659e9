"""Question answering: SQuAD's files, windows, answers' places, and the way back to text."""

import json

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CanineTokenizer

from electra_ds.errors import DataError, UserError
from electra_ds.finetune import answers, spans, squad
from electra_ds.finetune.config import FinetuneConfig
from electra_ds.finetune.tasks.question_answering import QuestionAnswering
from tests.finetune.conftest import COMMON


def squad_file(path, contexts):
    """Write articles of one paragraph: (context, [(id, question, answer or None)])."""
    data = []
    for number, (context, questions) in enumerate(contexts):
        qas = []
        for name, question, answer in questions:
            entry = {"id": name, "question": question, "answers": []}
            if answer is None:
                entry["is_impossible"] = True
            else:
                entry["answers"] = [{"text": answer, "answer_start": context.index(answer)}]
            qas.append(entry)
        data.append({"title": f"t{number}", "paragraphs": [{"context": context, "qas": qas}]})
    path.write_text(json.dumps({"version": "1.1", "data": data}), "utf-8")
    return path


FIRST = ("the cat is here and the dog is there", [("a", "the cat is", "here"), ("b", "the dog is", "there")])
SECOND = ("the soup is old", [("c", "the soup is", "old")])
UNKNOWN = ("the bread is new", [("d", "the fish is", None), ("e", "the bread is", "new")])


def task(tmp_path, train=(FIRST, SECOND), validation=(SECOND,), **options):
    config = FinetuneConfig(
        model="m",
        task=options.pop("task", "question_answering"),
        train=str(squad_file(tmp_path / "train.json", train)),
        validation=str(squad_file(tmp_path / "dev.json", validation)) if validation else None,
        output="o",
        **options,
    )
    made = QuestionAnswering(config)
    return made, made.read()


@pytest.fixture
def tokenizer(discriminator):
    return AutoTokenizer.from_pretrained(discriminator)


def test_squad_json_is_read_with_answers_and_articles(tmp_path):
    read = squad.read_questions(str(squad_file(tmp_path / "a.json", [FIRST, UNKNOWN])))
    assert [question.id for question in read.questions] == ["a", "b", "d", "e"]
    assert read.questions[0].answers == (("here", 11),)
    assert read.questions[2].answers == () and read.questions[2].article == "t1"
    assert read.mismatched == []


def test_official_unanswerable_questions_are_read_without_their_plausible_answers(tmp_path):
    path = squad_file(tmp_path / "a.json", [FIRST, UNKNOWN])
    data = json.loads(path.read_text())
    entry = data["data"][1]["paragraphs"][0]["qas"][0]
    entry["plausible_answers"] = [{"text": "new", "answer_start": 13}]
    for key in ("answers", None):
        path.write_text(json.dumps(data))
        assert squad.read_questions(str(path)).questions[2].answers == ()
        entry.pop(key, None)


def test_empty_questions_are_counted_where_they_are_kept(tmp_path):
    context, questions = FIRST
    empty = (context, [questions[0], ("b", "", "there"), ("e", " ", "cat")])
    made, splits = task(tmp_path, train=[empty, SECOND], validation=None, empty_texts="keep", held_out=0.5)
    assert sorted(split.counts["empty_texts"] for split in splits.values()) == [0, 2]
    assert made.count(splits["train"].examples + splits["validation"].examples, True)["empty_texts"] == 2


def test_flat_rows_of_json_lines_and_datasets_are_read_too(tmp_path):
    row = {"id": "x", "question": "q", "context": "a cat", "answers": {"text": ["cat"], "answer_start": [2]}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert squad.read_questions(str(tmp_path / "a.jsonl")).questions[0].answers == (("cat", 2),)
    datasets.DatasetDict({"train": datasets.Dataset.from_list([row])}).save_to_disk(str(tmp_path / "set"))
    assert squad.read_questions(f"hf:{tmp_path / 'set'}:train").questions[0].answers == (("cat", 2),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("data"), "data: no list 'data'; expected SQuAD's form"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][0].pop("question"), r"qas\[0\] \(id 'a'\): no text 'question'"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][1].update(id="a"), "the id 'a' stands there twice"),
        (
            lambda d: d["data"][0]["paragraphs"][0]["qas"][1].update(question="\ud83d"),
            r"train\.json, field 'data\[0\]\.paragraphs\[0\]\.qas\[1\]\.question': .* half of a surrogate pair",
        ),
        (lambda d: d["data"][0]["paragraphs"][0].update(context=" "), "id 'a': the context is empty"),
        (lambda d: d["data"][0]["paragraphs"][0]["qas"][0].update(question=""), "the question is empty"),
        (
            lambda d: d["data"][0]["paragraphs"][0]["qas"][0].update(is_impossible=True),
            r"qas\[0\] \(id 'a'\): is_impossible is true, but answers has .*'here'.* plausible_answers",
        ),
        (
            lambda d: d["data"][0]["paragraphs"][0]["qas"][0].update(is_impossible="true"),
            r"\(id 'a'\): is_impossible is 'true', expected true or false",
        ),
        (
            lambda d: d["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(answer_start=3),
            r"1 questions with an .* \(a\): for id 'a' the answer is 'here', but at 3 stands ' cat'.*--bad_rows drop",
        ),
    ],
)
def test_broken_files_are_refused_by_place_or_id(tmp_path, change, message):
    path = squad_file(tmp_path / "train.json", [FIRST])
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    config = FinetuneConfig(
        model="m", task="question_answering", train=str(path), validation=str(path), output="o"
    )  # fmt: skip
    with pytest.raises(DataError, match=message):
        QuestionAnswering(config).read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": {"text": ["cat"], "answer_start": [None]}}, "the answer_start None, expected a whole number"),
        ({"answers": {"text": ["cat"], "answer_start": ["2"]}}, "the answer_start '2', expected a whole number"),
        ({"answers": {"text": ["cat"], "answer_start": [2.5]}}, r"the answer_start 2\.5, expected a whole number"),
        ({"answers": {"text": [None], "answer_start": [2]}}, "the text None, expected a text in double quotes"),
        ({"answers": {"text": [7], "answer_start": [2]}}, "the text 7, expected a text"),
        ({"answers": {"text": "cat", "answer_start": 2}}, r"answers \{'text': 'cat', .* expected \{'text': \[\.\.\.\]"),
        ({"answers": {"text": None, "answer_start": None}}, r"answers \{'text': None, .* expected"),
        ({"answers": {"text": ["cat", "a"], "answer_start": [2]}}, "has 2 texts and 1 of answer_start"),
        ({"answers": ["cat"]}, r"answers \['cat'\], expected"),
        ({"id": None}, "id is None, expected a text or a whole number"),
        ({"title": ["x"]}, r"title is \['x'\], expected the name of the article"),
        ({"question": None}, "question and context are texts, found None and 'a cat'"),
    ],
)
def test_malformed_rows_of_json_lines_are_refused_by_line(tmp_path, change, message):
    good = {"id": "w", "question": "q", "context": "a cat", "answers": {"text": [], "answer_start": []}, "title": None}
    bad = {**good, "id": "x", **change}
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2: .*{message}"):
        squad.read_questions(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("change", [{"answer_start": None}, {"answer_start": "11"}, {"answer_start": 1.5}, {"text": 5}])
def test_malformed_answers_of_squad_json_are_refused_by_place(tmp_path, change):
    data = json.loads(squad_file(tmp_path / "a.json", [FIRST]).read_text())
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"][0] |= change
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"a\.json, data\[0\]\.paragraphs\[0\]\.qas\[0\] \(id 'a'\)"):
        squad.read_questions(str(tmp_path / "a.json"))


def test_an_answer_before_the_context_is_misplaced_and_articles_without_title_stay_apart(tmp_path):
    data = json.loads(squad_file(tmp_path / "a.json", [FIRST, SECOND]).read_text())
    context, answer = FIRST[0], data["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]
    answer |= {"text": context[-7:-3], "answer_start": -7}
    for article in data["data"]:
        article["title"] = None
    (tmp_path / "a.json").write_text(json.dumps(data))
    read = squad.read_questions(str(tmp_path / "a.json"))
    assert read.mismatched == ["a"] and {q.article for q in read.questions} == {"article 0", "article 1"}


def test_misplaced_answers_can_be_dropped_from_training_and_are_counted(tmp_path):
    path = squad_file(tmp_path / "x.json", [FIRST, SECOND])
    data = json.loads(path.read_text())
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    path.write_text(json.dumps(data))
    config = FinetuneConfig(
        model="m", task="question_answering", train=str(path), validation=str(path), output="o", bad_rows="drop"
    )
    splits = QuestionAnswering(config).read()
    assert splits["train"].counts["dropped_rows"] == 1 and len(splits["train"].examples) == 2
    assert splits["validation"].counts["misplaced_answers"] == 1 and len(splits["validation"].examples) == 3


def test_unanswerable_questions_need_training_that_has_some(tmp_path):
    with pytest.raises(DataError, match=r"1 questions without an answer \('d', ...\), but every training question"):
        task(tmp_path, validation=[UNKNOWN])
    with pytest.raises(DataError, match="use --task squad_v2"):
        task(tmp_path, train=[FIRST, UNKNOWN], task="squad_v1")
    made, _ = task(tmp_path, train=[FIRST, UNKNOWN], validation=[UNKNOWN], task="squad_v2")
    assert made.metric == "best_f1"


def test_whole_articles_are_set_aside_and_ids_seen_in_training_are_told(tmp_path):
    other = squad_file(tmp_path / "de.json", [FIRST, SECOND])
    options = {"validation": None, "held_out": 0.5, "evaluate": f"de={other}"}
    _, splits = task(tmp_path, **options)
    articles = {split: {q.article for q in splits[split].examples} for split in ("train", "validation")}
    assert articles["train"] | articles["validation"] == {"t0", "t1"} and not articles["train"] & articles["validation"]
    assert splits["de"].counts["also_in_training"] == len(splits["train"].examples)
    _, splits = task(tmp_path, **options, evaluate_unseen=True)
    assert splits["de"].counts["seen_in_training"] == len(splits["train"].examples)
    assert {q.id for q in splits["de"].examples} == {q.id for q in splits["validation"].examples}


def test_mlqas_rules_want_to_know_the_language_of_every_text(tmp_path):
    other = squad_file(tmp_path / "xquad-el.json", [SECOND])
    mlqa = {"answer_rules": "mlqa", "evaluate": f"de={other}"}
    assert task(tmp_path, **mlqa)[0].config.language == "en"
    for options in ({"evaluate": f"german={other}"}, {"task": "xquad", "data": str(tmp_path)}):
        with pytest.raises(
            UserError, match=r"called '(german|el)', .* --answer_rules mlqa knows \(ar, de, .*--language"
        ):
            task(tmp_path, **{**mlqa, **options})
        task(tmp_path, **{**mlqa, **options, "language": "de"})
        task(tmp_path, **{**mlqa, **options, "answer_rules": "squad"})


@settings(deadline=None, max_examples=40)
@given(
    length=st.integers(1, 90), max_length=st.integers(12, 40), stride=st.integers(1, 50), seed=st.integers(0, 1000),
    question=st.integers(1, 12),
)  # fmt: skip
def test_windows_hold_the_whole_context_in_steps(discriminator, length, max_length, stride, seed, question):
    import random

    tokenizer = AutoTokenizer.from_pretrained(discriminator)
    draw = random.Random(seed)
    context = " ".join(draw.choices(COMMON, k=length))
    found, cut = spans.WindowMaker(tokenizer, max_length, 6, stride)(" ".join(["cat"] * question), context)
    kept = min(question, 6, (max_length - 3) // 2)
    assert cut == (question > kept)
    room = max_length - 3 - kept
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    starts = [whole.index(window["offsets"][0]) for window in found]
    assert starts == [i * min(stride, (room + 1) // 2) for i in range(len(found))], "one step of stride after another"
    owned = [offset for window in found for offset, own in zip(window["offsets"], window["own"], strict=True) if own]
    assert sorted(owned) == whole, "every token has the most context in exactly one window"
    for window in found:
        assert len(window["input_ids"]) <= max_length
        first, last = window["context"]
        assert set(window["token_type_ids"][first:last]) == {1} and last - first == len(window["offsets"])


def test_windows_without_the_whole_answer_point_at_cls(tokenizer):
    context = "the a is was very here there and of with small big old new the cat"
    found, _ = spans.WindowMaker(tokenizer, 12, 6, 4)("cat", context)
    inside = [spans.label(window, ("small big", context.index("small big"))) for window in found]
    assert any(inside) and not all(inside)
    for window, holds in zip(found, inside, strict=True):
        start, end = window["start_positions"], window["end_positions"]
        if holds:
            assert tokenizer.decode(window["input_ids"][start : end + 1]) == "small big"
        else:
            assert start == end == 0 and window["input_ids"][0] == tokenizer.cls_token_id


def test_the_answer_is_cut_from_the_text_itself(tmp_path, tokenizer):
    made, splits = task(tmp_path, train=[("The  CAT is Here, and old", [("a", "the cat", "CAT is Here")])] * 1)
    encoded = made.encode(splits["train"], tokenizer)
    feature = encoded.features[0]
    starts, ends = np.zeros((1, 40), np.float32), np.zeros((1, 40), np.float32)
    starts[0, feature["start_positions"]] = ends[0, feature["end_positions"]] = 5
    found, odds = spans.decode_independent(encoded, (starts, ends), 20, 30)
    assert found == {"a": "CAT is Here"}
    assert odds["a"] == pytest.approx(-10)


def plain_best(feature, starts, ends, limit):
    """Every span, one by one."""
    first, last = feature["context"]
    best = None
    for s in range(first, last):
        for e in range(s, min(last, s + limit)):
            if feature["own"][s - first] and (best is None or starts[s] + ends[e] > best[0]):
                best = (float(starts[s]) + float(ends[e]), s - first, e - first)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_agrees_with_trying_every_one(tmp_path, tokenizer, seed):
    draw = np.random.default_rng(seed)
    contexts = [(" ".join(draw.choice(COMMON, 40)), [(f"q{i}", "cat", None), (f"r{i}", "dog", None)]) for i in range(3)]
    made, splits = task(tmp_path, train=[FIRST, UNKNOWN], validation=contexts, max_length=24, stride=8)
    encoded = made.encode(splits["validation"], tokenizer)
    shape = (len(encoded.features), 24)
    starts, ends = draw.normal(size=shape).astype(np.float32), draw.normal(size=shape).astype(np.float32)
    found, odds = spans.decode_independent(encoded, (starts, ends), 24, 5)
    for number, question in enumerate(splits["validation"].examples):
        best, null = None, float("inf")
        for row, feature in enumerate(encoded.features):
            if feature["example"] != number:
                continue
            null = min(null, float(starts[row, 0]) + float(ends[row, 0]))
            here = plain_best(feature, starts[row], ends[row], 5)
            if here and (best is None or here[0] > best[0][0]):
                best = (here, feature)
        (score, s, e), feature = best
        assert found[question.id] == question.context[feature["offsets"][s][0] : feature["offsets"][e][1]]
        assert odds[question.id] == pytest.approx(null - score, abs=1e-5)


def test_predictions_have_squads_form_and_odds_beside(tmp_path, tokenizer):
    made, splits = task(tmp_path, train=[FIRST, UNKNOWN], validation=[UNKNOWN])
    encoded = made.encode(splits["validation"], tokenizer)
    starts = ends = np.zeros((2, 30), np.float32)
    starts[0, 0] = 9.0
    made.write_predictions(tmp_path / "predictions-predictions.json", encoded, (starts, ends))
    best, odds, given = (
        json.loads((tmp_path / f"{name}-predictions.json").read_text())
        for name in ("predictions", "null-odds", "answers")
    )
    assert best["d"] != "" and odds["d"] > 0 and given == {**best, "d": ""}


def official_best_f1(right, predicted, odds):
    """Best F1 over every threshold on the odds, each answer above it counting as none."""

    def f1(truth, text):
        return answers.f1(truth, text, null=True)

    thresholds = [min(odds.values()) - 1, *odds.values()]
    scores = [
        [f1(truth, predicted[key] if odds[key] <= threshold else "") for key, truth in right.items()]
        for threshold in thresholds
    ]
    return max(map(np.mean, scores))


@pytest.mark.parametrize("seed", range(3))
def test_scores_at_the_best_threshold_come_out_of_the_written_files(tmp_path, tokenizer, seed):
    made, splits = task(tmp_path, train=[FIRST, UNKNOWN], validation=[FIRST, SECOND, UNKNOWN])
    encoded = made.encode(splits["validation"], tokenizer)
    starts, ends = np.zeros((2, len(encoded.features), 30), np.float32)
    for number, feature in enumerate(encoded.features):
        example = splits["validation"].examples[feature["example"]]
        if example.answers:
            spans.label(feature, example.answers[0])
            starts[number, feature["start_positions"]] = ends[number, feature["end_positions"]] = 5
        starts[number, 0] = 12 + np.random.default_rng(seed).normal()  # above 0 everywhere
    made.write_predictions(tmp_path / "predictions.json", encoded, (starts, ends))
    predicted, odds = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("predictions", "null-odds"))
    right = {q.id: [text for text, _ in q.answers] for q in splits["validation"].examples}
    score = made.score(encoded, (starts, ends))
    assert score["best_f1"] == pytest.approx(official_best_f1(right, predicted, odds)) == 1.0
    assert score["f1"] == pytest.approx(0.2)


def test_a_slow_tokenizer_is_refused(tmp_path):
    made, splits = task(tmp_path)
    with pytest.raises(DataError, match=r"tokenizer of m \(CanineTokenizer\) does not say where in a text"):
        made.encode(splits["train"], CanineTokenizer())


def test_windows_are_those_the_tokenizer_itself_would_make(tokenizer):
    context = " ".join(COMMON * 4)
    found, _ = spans.WindowMaker(tokenizer, 30, 6, 10)("the cat is", context)
    room = 30 - 3 - 3
    theirs = tokenizer(
        "the cat is", context, truncation="only_second", max_length=30, stride=room - 10, return_overflowing_tokens=True
    )
    assert [window["input_ids"] for window in found] == theirs["input_ids"]
    assert [window["token_type_ids"] for window in found] == theirs["token_type_ids"]


def test_tokens_that_hold_the_space_before_them_leave_it_out_of_answers(tmp_path):
    """As in SentencePiece vocabularies."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"▁{word}" for word in ("the", "cat", "is", "here", "and"))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")
    made, splits = task(tmp_path, train=[("the cat is here and", [("a", "the cat", "is here")])])
    encoded = made.encode(splits["train"], tokenizer)
    feature = encoded.features[0]
    starts, ends = np.zeros((1, 20), np.float32), np.zeros((1, 20), np.float32)
    starts[0, feature["start_positions"]] = ends[0, feature["end_positions"]] = 5
    assert spans.decode_independent(encoded, (starts, ends), 20, 30)[0] == {"a": "is here"}
