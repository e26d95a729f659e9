"""Which tokens continue a word, for each kind of tokenizer that shards may carry."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from electra_ds.data.vocabulary import continuation_table
from electra_ds.errors import DataError, UserError

TEXT = [
    "The quick brown foxes (all of them) jumped over the laziest dogs, didn't they? Überraschung!",
    "unbelievable misunderstandings notwithstanding: well-known, low-lying — e.g. example.com/path?query=1",
    "東京都に住んでいます。 ภาษาไทย",
] * 20
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train(kind, vocab_size=140):
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, unk_token="[UNK]")
    elif kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    elif kind == "replaced_space":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL)
    elif kind == "suffix":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def table_of(tokenizer, folder):
    tokenizer.save(str(folder / "tokenizer.json"))
    return continuation_table(folder, tokenizer.get_vocab_size())


def words(tokenizer, table, text):
    """The text's tokens, a space before each that begins a word."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spelled = [piece.removeprefix("##").lstrip("▁Ġ") for piece in encoding.tokens]
    joined = ["" if table[id_] else " " for id_ in encoding.ids]
    return "".join(space + piece for space, piece in zip(joined, spelled, strict=True)).split()


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "byte_level"])
def test_words_of_a_text_are_found(kind, tmp_path):
    tokenizer = train(kind)
    table = table_of(tokenizer, tmp_path)
    assert table.dtype == bool
    assert table.shape == (tokenizer.get_vocab_size(),)
    text = "The unbelievable foxes (all over) jumped, they misunderstandings"
    assert words(tokenizer, table, text) == (
        ["The", "unbelievable", "foxes", "(", "all", "over", ")", "jumped", ",", "they", "misunderstandings"]
        if kind == "wordpiece"
        else ["The", "unbelievable", "foxes", "(all", "over", ")", "jumped", ",", "they", "misunderstandings"]
    )
    assert table.any()
    assert not table[[tokenizer.token_to_id(token) for token in SPECIAL]].any()


def test_a_normalizer_may_write_the_spaces(tmp_path):
    tokenizer = train("replaced_space")
    table = table_of(tokenizer, tmp_path)
    for piece, id_ in tokenizer.get_vocab().items():
        if piece not in SPECIAL and piece.isascii() and piece.isalpha():
            assert table[id_], piece
        if piece.startswith("▁"):
            assert not table[id_], piece


@pytest.mark.parametrize("kind", ["unigram", "byte_level"])
def test_pieces_of_a_script_without_spaces_are_words_and_punctuation_stands_alone(kind, tmp_path):
    tokenizer = train(kind, 200)
    tokenizer.add_tokens([AddedToken("東京", normalized=False), AddedToken("added", normalized=False)])
    table = table_of(tokenizer, tmp_path)
    assert not table[tokenizer.token_to_id("added")]
    single = {piece: table[id_] for piece, id_ in tokenizer.get_vocab().items()}
    assert not single[","]
    assert not single["("]
    assert single["s"]
    if kind == "unigram":
        assert not any(continues for piece, continues in single.items() if piece[0] in "都東京住ทษ")


def test_words_as_tokens_never_continue(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    assert not table_of(tokenizer, tmp_path).any()


def test_a_tokenizer_that_marks_ends_is_refused_with_what_works(tmp_path):
    with pytest.raises(UserError, match=r"do not tell where words begin.*set objective\.masking to token"):
        table_of(train("suffix"), tmp_path)
    with pytest.raises(UserError, match=r"set objective\.masking to token"):
        table_of(Tokenizer(models.Unigram([("[UNK]", 0.0), ("a", -1.0)], 0, False)), tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": 3}', json.dumps({"model": {"vocab": [3]}})])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot be read"):
        continuation_table(tmp_path, 5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot be read"):
        continuation_table(tmp_path, 5)


def test_ids_beyond_the_vocabulary_in_use_are_left_out(tmp_path):
    tokenizer = train("wordpiece")
    whole = table_of(tokenizer, tmp_path)
    assert np.array_equal(continuation_table(tmp_path, 50), whole[:50])
