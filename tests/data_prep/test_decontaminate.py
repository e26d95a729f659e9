"""Decontamination: evaluation files of every kind, and what of them is found in documents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean.config import CleanConfig
from data_prep.clean.removals import Removals
from data_prep.clean.steps import Cleaner
from data_prep.dedup.config import DecontaminationConfig
from data_prep.dedup.decontaminate import SHORTEST, Decontamination
from data_prep.dedup.words import word_list
from data_prep.sources.base import Document
from electra_ds.errors import DataError, UserError

QUESTION = "Which of the rivers that cross the old town of the capital is the longest one?"
SHORT = "the sailors rode the breeze clear"


def build(folder: Path, content: str = f"{QUESTION}\n{SHORT}\nno\n", **options: object) -> Decontamination:
    (folder / "eval.txt").write_text(content)
    return Decontamination(DecontaminationConfig(files=[str(folder / "eval.txt")], **options))  # type: ignore[arg-type]


def dropped(decontamination: Decontamination, text: str) -> bool:
    removed = Removals()
    result = Cleaner(CleanConfig(), decontamination).clean(Document(text), removed)
    assert removed.counts == ({} if result else {"decontamination": 1})
    return result is None


def test_a_document_with_an_ngram_is_dropped(tmp_path: Path) -> None:
    found = build(tmp_path)
    assert dropped(found, f"Something before. {QUESTION} And after.")
    assert dropped(found, "WHICH of the rivers, that cross\nthe old town of the “capital”, is no matter.")
    assert not dropped(found, "Which of the rivers that cross the old town of the country is the longest one?")
    assert not dropped(found, "Quite another text, with no word of it. " * 50)


def test_short_texts_are_matched_whole(tmp_path: Path) -> None:
    found = build(tmp_path)
    assert dropped(found, "And so the sailors rode the breeze, clear of the rocks.")
    assert not dropped(found, "The sailors rode the breeze.")
    assert not dropped(found, "There is no way.")


def test_the_share_decides(tmp_path: Path) -> None:
    text = QUESTION + " word" * 40  # 16 words, 4 n-grams of 13, of 44 in all
    assert len(word_list(text)) == 56
    assert dropped(build(tmp_path, share=0.05), text)
    assert not dropped(build(tmp_path, share=0.1), text)


def test_samples_tell_what_was_found(tmp_path: Path) -> None:
    removed = Removals()
    text = f"Some words in front of it. {SHORT.upper()} of rocks."
    Cleaner(CleanConfig(), build(tmp_path)).clean(Document(text), removed)
    (sample,) = removed.samples["decontamination"]
    assert sample.detail == f"1 of 2 n-grams, first: {SHORT}"


def test_it_is_the_last_step(tmp_path: Path) -> None:
    cleaner = Cleaner(CleanConfig(markup=True, mask_ips=True), build(tmp_path))
    assert cleaner.steps == ("empty", "markup", "mask_ips", "decontamination")
    assert cleaner.clean(Document(QUESTION.replace(" ", " <b>x</b>".replace("x", ""))), Removals()) is None


FILES = {
    "a.txt": f"{QUESTION}\n\nA second line of words that is here for the fun of it and is long enough.\n",
    "b.jsonl": json.dumps({"id": 1, "nested": [{"question": QUESTION}, 2.5, None]}) + "\n\n",
    "c.json": json.dumps([{"data": {"paragraphs": [{"context": QUESTION}]}}]),
    "d.tsv": f'1\tan open quotation mark " here\t{QUESTION}\n0\tx\ty\n',
    "e.csv": f'label,text\n1,"{QUESTION.replace(" old", ", old")}"\n',
    "f.JSONL": "\ufeff" + json.dumps(QUESTION),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    found = Decontamination(DecontaminationConfig(files=[str(tmp_path / name)]))
    assert dropped(found, f"Before. {QUESTION} After.")
    assert not dropped(found, "Neither before nor after. " * 20)


def test_patterns_and_the_fingerprint(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.txt").write_text(f"{QUESTION}\n")
    both, first = (
        Decontamination(DecontaminationConfig(files=[str(tmp_path / pattern)])) for pattern in ("*/*.txt", "one/*.txt")
    )
    assert both.size == first.size == len(word_list(QUESTION)) - 13 + 1
    assert both.fingerprint == first.fingerprint
    assert len(both.fingerprint) == len(hashlib.sha256().hexdigest())
    assert build(tmp_path).fingerprint != first.fingerprint
    assert build(tmp_path, ngram=12).fingerprint != build(tmp_path).fingerprint


def test_the_fingerprint_never_changes(tmp_path: Path) -> None:
    assert build(tmp_path).fingerprint == GOLDEN


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=1, max_size=4), words, st.integers(1, 8))
def test_hits_are_those_of_a_plain_search(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], document: list[str], ngram: int
) -> None:
    wanted: set[tuple[str, ...]] = set()
    for text in texts:
        if len(text) >= ngram:
            wanted |= {tuple(text[start : start + ngram]) for start in range(len(text) - ngram + 1)}
        elif len(text) >= SHORTEST:
            wanted.add(tuple(text))
    expected = [
        start
        for start in range(len(document))
        if any(tuple(document[start : start + len(gram)]) == gram for gram in wanted)
    ]
    content = "\n".join(" ".join(text) for text in texts)
    folder = tmp_path_factory.mktemp("eval")
    if not wanted:
        with pytest.raises(DataError, match="no text of"):
            build(folder, content, ngram=ngram)
        return
    found = build(folder, content, ngram=ngram)
    places, lengths, total = found.hits(" ".join(document))
    assert places.tolist() == expected
    assert all(tuple(document[p : p + n]) in wanted for p, n in zip(places.tolist(), lengths.tolist(), strict=True))
    assert total == max(1, len(document) - ngram + 1)
    assert found.size == len(wanted)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("x.txt", None, UserError, "no file matches"),
        ("x.parquet", "", UserError, r"ends in none of \.txt, \.jsonl"),
        ("x.txt", "too short\n", DataError, "no text of 5 words"),
        ("x.jsonl", '{"a": 1}\n{"a": \n', DataError, "line 2: not JSON"),
        ("x.json", "[1, ", DataError, "not JSON"),
        ("x.json", "[" * 100_000, DataError, "valid|not JSON"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, name: str, content: str | None, error: type, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message) as caught:
        Decontamination(DecontaminationConfig(files=[str(tmp_path / name)]))
    assert name in str(caught.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        Decontamination(DecontaminationConfig(files=[str(tmp_path / "x.txt")]))


def test_hostile_documents(tmp_path: Path) -> None:
    found = build(tmp_path)
    for text in ("a" * 5_000_000, "the " * 1_000_000, "which of the rivers that " * 100_000, "\ud800\x00" * 99_999):
        assert not dropped(found, text)


GOLDEN = "8d74b32e2b5d48f195ef46162d3dc05e15f23debc7386cc6fdc209293e6714d1"
