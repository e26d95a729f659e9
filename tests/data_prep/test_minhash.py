"""MinHash signatures: what they promise about similar texts, and that they are the same everywhere."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import words as words_module
from data_prep.dedup.config import DedupConfig
from data_prep.dedup.minhash import minhashes, signatures
from data_prep.dedup.words import fold, ngram_hashes, rolling, word_hashes, word_list
from tests.conftest import real_documents

CONFIG = DedupConfig(near=True)
TOKENS = ("one", "two", "three", "four", "five", "six", ".", ",", "\n", "é", "中文", "नमस्ते")
PROSE = st.lists(st.sampled_from(TOKENS), max_size=60).map(" ".join)


def shingles(text: str, size: int) -> set[tuple[str, ...]]:
    found = word_list(text)
    return {tuple(found[start : start + size]) for start in range(max(1, len(found) - size + 1))} if found else set()


def jaccard(first: str, second: str, size: int) -> float:
    a, b = shingles(first, size), shingles(second, size)
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Héllo, Wörld_1!", ["héllo", "wörld_1"]),
        ("ｆｕｌｌ x² ﬁne", ["full", "x2", "fine"]),
        ("don't stop", ["don", "t", "stop"]),
        ("你好 ab", ["你", "好", "ab"]),
        ("日本のkana", ["日", "本", "の", "kana"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("... !? \ud800 \x00", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert word_list(text) == [unicodedata.normalize("NFKC", word) for word in expected]


@given(st.text(st.characters(max_codepoint=0x500, exclude_categories=["M", "Cs"])))
def test_words_of_spaced_scripts_are_what_the_pattern_finds(text: str) -> None:
    if not any(unicodedata.category(c)[0] == "M" for c in fold(text)):
        assert word_list(text) == re.findall(r"\w+", fold(text))


@given(st.lists(PROSE, max_size=12))
def test_equal_words_have_equal_hashes_and_others_others(texts: list[str]) -> None:
    hashes, counts = word_hashes(texts)
    words = [word for text in texts for word in word_list(text)]
    assert counts.tolist() == [len(word_list(text)) for text in texts]
    assert len(hashes) == len(words)
    assert len(set(hashes.tolist())) == len(set(words))
    assert dict(zip(words, hashes.tolist(), strict=True)) == dict(zip(words[::-1], hashes.tolist()[::-1], strict=True))


@given(st.lists(PROSE, max_size=8), st.integers(1, 20))
def test_ngrams_stay_within_their_text(texts: list[str], size: int) -> None:
    hashes, numbers = ngram_hashes(*word_hashes(texts), size)
    parts = np.split(hashes, np.cumsum(numbers))[: len(texts)]
    for text, part in zip(texts, parts, strict=True):
        alone, _ = ngram_hashes(*word_hashes([text]), size)
        assert part.tolist() == alone.tolist()
        assert len(set(part.tolist())) == len(shingles(text, size))


def test_rolling_hashes_know_their_length() -> None:
    words, _ = word_hashes(["a a a a a"])
    found = dict(rolling(words, (1, 2, 5)))
    assert [len(found[length]) for length in (1, 2, 5)] == [5, 4, 1]
    assert len({hashed[0] for hashed in found.values()}) == 3


@settings(max_examples=30)
@given(st.lists(PROSE, min_size=1, max_size=6))
def test_chunks_do_not_show(texts: list[str]) -> None:
    """A text longer than a chunk is cut between words."""
    expected = word_hashes(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "CHUNK", 40)
        found = word_hashes(texts)
        assert [word for text in texts for word in word_list(text)] == re.findall(r"\S+", " ".join(
            word for text in texts for word in word_list(text)))  # fmt: skip
    assert [part.tolist() for part in found] == [part.tolist() for part in expected]


@given(st.lists(PROSE, max_size=8), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_signatures_depend_on_the_text_alone(texts: list[str], ngram: int, bands: int, rows: int) -> None:
    config = DedupConfig(near=True, ngram=ngram, bands=bands, rows=rows)
    together = signatures(texts, config)
    assert together.shape == (len(texts), bands)
    assert together.dtype == np.uint64
    for text, keys in zip(texts, together, strict=True):
        assert signatures([text], config)[0].tolist() == keys.tolist()


def test_signatures_never_change() -> None:
    """They lie in work folders: a change would make old and new documents look different."""
    keys = signatures(["The quick brown fox jumps over the lazy dog.", "Straße 中文", "..."], CONFIG)
    assert [f"{int(key):016x}" for key in keys[:, 0]] == GOLDEN
    code = (
        "from data_prep.dedup.minhash import signatures; from data_prep.dedup.config import DedupConfig;"
        "print(int(signatures(['The quick brown fox jumps over the lazy dog.'], DedupConfig())[0, 0]))"
    )
    for seed in ("0", "1"):
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert int(printed.stdout) == int(keys[0, 0])


def test_long_documents_reach_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(f"w{number * 7919 % 500}" for number in range(size)) for size in (3, 400, 0, 90, 1, 700)]
    expected = signatures(texts, CONFIG)
    monkeypatch.setattr("data_prep.dedup.minhash._BLOCK", 64)
    monkeypatch.setattr("data_prep.dedup.minhash._TEXTS", 1000)
    assert (signatures(texts, CONFIG) == expected).all()


def test_case_marks_and_spaces_make_no_difference() -> None:
    first, second = signatures(["It was the best of times; it was", "it WAS,  the “best”\nof times it was?"], CONFIG)
    assert (first == second).all()


def test_documents_without_words_match_their_copies_only() -> None:
    keys = signatures(["...", "...", "!!!", "", "? ?"], CONFIG)
    assert (keys[0] == keys[1]).all()
    assert len(np.unique(keys)) == 4 * CONFIG.bands


def test_short_documents_are_one_shingle() -> None:
    keys = signatures(["two words", "two words", "words two", "two words more"], CONFIG)
    assert (keys[0] == keys[1]).all()
    assert not (keys[0] == keys[2]).any()
    assert not (keys[0] == keys[3]).any()


def similar_pairs(similarity: float, pairs: int, size: int = 200) -> list[str]:
    """Texts of shingles of one word each, every two of which have about this Jaccard similarity."""
    shared = round(2 * size * similarity / (1 + similarity))
    texts = []
    for pair in range(pairs):
        common = [f"c{pair}x{number}" for number in range(shared)]
        texts += [" ".join([*common, *(f"{side}{pair}x{n}" for n in range(size - shared))]) for side in "ab"]
    return texts


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.65, 0.72, 0.8, 0.9, 0.97])
def test_the_probability_of_a_match_is_that_of_the_theory(similarity: float) -> None:
    config = DedupConfig(near=True, ngram=1)
    pairs = 1500
    texts = similar_pairs(similarity, pairs)
    exact = jaccard(texts[0], texts[1], 1)
    keys = signatures(texts, config)
    found = (keys[::2] == keys[1::2]).any(1).mean()
    expected = 1 - (1 - exact**config.rows) ** config.bands
    # Five standard deviations of the share of so many pairs.
    assert abs(found - expected) < 5 * (expected * (1 - expected) / pairs) ** 0.5 + 1e-3


def test_the_estimate_agrees_with_the_similarity_of_real_texts() -> None:
    chance = random.Random(1)
    pairs = []
    for text in [text for text in real_documents() if len(text) > 1500][:40]:
        found = text.split()
        for change in (0.01, 0.05, 0.2):
            pairs += [text, " ".join("changed" if chance.random() < change else word for word in found)]
    words, counts = word_hashes(pairs)
    minima = minhashes(*ngram_hashes(words, counts, 5), 1024)
    estimates = (minima[:, ::2] == minima[:, 1::2]).mean(0)
    exact = [jaccard(first, second, 5) for first, second in zip(pairs[::2], pairs[1::2], strict=True)]
    errors = estimates - exact
    assert np.abs(errors).max() < 5 * (0.25 / 1024) ** 0.5
    assert abs(errors.mean()) < 0.005


def test_hostile_texts() -> None:
    texts = ["a" * 3_000_000, "word " * 500_000, "e" + "\u0301\u0316" * 200_000, "中" * 500_000, "\ud800\x00" * 100_000]
    keys = signatures([*texts, *texts], CONFIG)
    assert (keys[: len(texts)] == keys[len(texts) :]).all()
    assert len(np.unique(keys[:, 0])) == len(texts)


GOLDEN = ["991c1a5dfb577135", "07209df517e2d8f3", "1276fc784fe9e5cd"]
