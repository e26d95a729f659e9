"""What is exported loads in stock transformers and gives the ids that the shards hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.config import TokenizerConfig
from data_prep.tokenizer import Encoder, load_encoder, make_tokenizer, tokenizer_info
from electra_ds.errors import UserError
from tests.data_prep.conftest import POLYGLOT, contents

TYPES = ("wordpiece", "unigram", "bpe")


def encode(encoder: Encoder, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens and sentence starts of each text."""
    found = encoder.encode([text.encode() for text in texts])
    tokens = np.split(found.tokens, np.cumsum(found.token_counts)[:-1])
    return list(zip(tokens, np.split(found.sentences, np.cumsum(found.sentence_counts)[:-1]), strict=True))


@pytest.fixture(scope="session")
def texts(corpus) -> list[str]:
    lines = corpus.read_text("utf-8").splitlines()[:200]
    return [json.loads(line)["text"] for line in lines] + list(POLYGLOT)


@pytest.fixture(scope="session", params=TYPES)
def trained(request, texts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    make_tokenizer(texts, TokenizerConfig(type=request.param, vocab_size=900, character_coverage=1.0), folder)
    return folder


def test_the_special_tokens_come_first_and_pairs_have_types(trained):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert len(tokenizer) == 900
    assert tokenizer.model_max_length == 512
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    named = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert [*named, tokenizer.mask_token_id] == [0, 1, 2, 3, 4]
    pair = tokenizer("return a value", "of the object")
    a, b = (tokenizer(text, add_special_tokens=False).input_ids for text in ("return a value", "of the object"))
    assert pair.input_ids == [2, *a, 3, *b, 3]
    assert pair.token_type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_stock_transformers_gives_the_ids_that_the_shards_hold(trained, texts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained)
    encoded = encode(load_encoder(trained), texts)
    for text, (tokens, _) in zip(texts, encoded, strict=True):
        stock = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert stock == tokens.tolist(), text


def test_word_by_word_gives_the_ids_of_the_whole_text(trained, texts):
    encoder, library = both(trained)
    assert [tokens.tolist() for tokens, _ in encode(encoder, texts)] == [library(text) for text in texts]


def test_sentence_starts_increase_from_zero_and_see_chinese_full_stops(trained, texts):
    encoder = load_encoder(trained)
    for tokens, starts in encode(encoder, texts):
        assert starts[0] == 0
        assert np.all(np.diff(starts.astype(int)) > 0)
        assert starts[-1] < len(tokens)
    [(_, starts)] = encode(encoder, ["中文没有空格。第二句在这里！真的吗？“是的。”他说。"])
    assert len(starts) >= 4
    [(tokens, starts)] = encode(encoder, [" \n "])
    assert len(tokens) == len(starts) == 0


def test_ids_do_not_depend_on_what_was_encoded_before(trained, texts, monkeypatch):
    whole = encode(load_encoder(trained), texts)
    forgetful = load_encoder(trained)
    monkeypatch.setattr("data_prep.tokenizer.encoder.CAPACITY", 50)
    for order in (range(len(texts)), reversed(range(len(texts)))):
        for number in order:
            [(tokens, starts)] = encode(forgetful, [texts[number]])
            assert tokens.tolist() == whole[number][0].tolist()
            assert starts.tolist() == whole[number][1].tolist()


ODD = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\v\f\x00\x01\x1c\x85\u00a0\u200b\u2003\u3000.!?'-_'\u0301\u034fßIİıΣς中。"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(ODD, min_size=1, max_size=4))
def test_any_text_has_the_ids_of_the_library(trained, texts):
    """White space of all kinds, controls, marks without a letter: words one by one are the text as a whole."""
    encoder, library = both(trained)
    assert [tokens.tolist() for tokens, _ in encode(encoder, texts)] == [library(text) for text in texts]


@cache
def both(folder: Path) -> tuple[Encoder, Callable[[str], list[int]]]:
    """Our encoder, and ids of a whole text by the library that trained the vocabulary."""
    if (folder / "tokenizer.model").exists():
        from sentencepiece import SentencePieceProcessor

        model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return load_encoder(folder), lambda text: model.encode(unicodedata.normalize("NFKC", text))
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    return load_encoder(folder), lambda text: library.encode(text, add_special_tokens=False).ids


def test_a_document_of_one_repeated_token_and_one_without_a_space(trained):
    encoder = load_encoder(trained)
    [(tokens, starts)] = encode(encoder, ["value " * 300_000])
    assert len(tokens) % 300_000 == 0
    assert len(starts) == 1
    [(tokens, _)] = encode(encoder, ["value" * 200_000])
    assert len(tokens)


def test_special_tokens_spelled_in_a_text_are_text(trained):
    [(tokens, _)] = encode(load_encoder(trained), ["the [MASK] and the [SEP] tokens [CLS] [PAD]"])
    assert not set(tokens.tolist()) & {0, 2, 3, 4}


@pytest.mark.parametrize("type_", TYPES)
def test_training_gives_the_same_bytes_whatever_the_number_of_threads(type_, texts, tmp_path):
    script = (
        "import json, sys; from pathlib import Path; from data_prep.config import TokenizerConfig\n"
        "from data_prep.tokenizer import make_tokenizer\n"
        "texts, folder = json.load(open(sys.argv[1])), Path(sys.argv[2]); folder.mkdir()\n"
        f"make_tokenizer(texts, TokenizerConfig(type='{type_}', vocab_size=700), folder)\n"
    )
    (tmp_path / "texts.json").write_text(json.dumps(texts), "utf-8")
    for name, threads in (("one", "1"), ("many", "3")):
        command = [sys.executable, "-c", script, str(tmp_path / "texts.json"), str(tmp_path / name)]
        subprocess.run(command, check=True, env={**os.environ, "RAYON_NUM_THREADS": threads}, timeout=120)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_electras_own_class_reads_the_wordpiece_folder(texts, tmp_path):
    from transformers import ElectraTokenizer

    make_tokenizer(texts, TokenizerConfig(vocab_size=700, lowercase=False), tmp_path)
    tokenizer = ElectraTokenizer.from_pretrained(tmp_path)
    [(tokens, _)] = encode(load_encoder(tmp_path), ["Return Über Straße"])
    assert tokenizer("Return Über Straße", add_special_tokens=False).input_ids == tokens.tolist()
    assert any(token.isupper() for token in tokenizer.get_vocab() if len(token) == 1)
    assert (tmp_path / "vocab.txt").read_text("utf-8").split("\n")[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_an_existing_tokenizer_is_copied_with_its_ids(trained, texts, tmp_path):
    make_tokenizer([], TokenizerConfig(type="existing", path=str(trained)), tmp_path)
    info = tokenizer_info(tmp_path, "existing")
    assert (info.vocab_size, info.pad_id, info.mask_id) == (900, 0, 4)
    old, new = encode(load_encoder(trained), texts), encode(load_encoder(tmp_path), texts)
    assert all(a.tolist() == b.tolist() for (a, _), (b, _) in zip(old, new, strict=True))
    assert contents(trained) == contents(tmp_path)  # so that its fingerprint stays, too


def test_a_sentencepiece_model_file_is_taken_and_its_sentence_starts_found(texts, tmp_path):
    trained, taken = tmp_path / "trained", tmp_path / "taken"
    trained.mkdir(), taken.mkdir()
    make_tokenizer(texts, TokenizerConfig(type="bpe", vocab_size=700, character_coverage=1.0), trained)
    make_tokenizer([], TokenizerConfig(type="existing", path=str(trained / "tokenizer.model")), taken)
    old, new = encode(load_encoder(trained), texts), encode(load_encoder(taken), texts)
    for (tokens, starts), (tokens_again, starts_again) in zip(old, new, strict=True):
        assert tokens.tolist() == tokens_again.tolist()
        assert starts.tolist() == starts_again.tolist()


def test_a_byte_level_tokenizer_is_encoded_whole(texts, tmp_path):
    """GPT-2's kind joins a space to the word after it: cutting its text at spaces would change the ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*names.values()], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    make_tokenizer([], TokenizerConfig(type="existing", path=str(tmp_path / "theirs")), tmp_path / "ours")
    stock = AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "Return the value. Then stop.\nA new line"
    [(tokens, starts)] = encode(load_encoder(tmp_path / "ours"), [text])
    assert tokens.tolist() == stock(text, add_special_tokens=False).input_ids
    pieces = [stock.decode(piece).strip() for piece in np.split(tokens, starts[1:].astype(int))]
    assert pieces == ["Return the value.", "Then stop.", "A new line"]


def test_an_existing_tokenizer_without_a_mask_is_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    with pytest.raises(UserError, match=r"theirs has no mask token.*add_special_tokens"):
        make_tokenizer([], TokenizerConfig(type="existing", path=str(tmp_path / "theirs")), tmp_path / "ours")


@pytest.mark.parametrize(("type_", "size"), [("unigram", 70), ("bpe", 70), *((type_, 500_000) for type_ in TYPES)])
def test_a_vocabulary_that_the_text_does_not_support_is_refused(type_, size, tmp_path):
    texts = [f"{chr(0x4E00 + n)} {chr(0x100 + n)}a{n}" for n in range(300)]
    with pytest.raises(UserError, match=rf"tokenizer.vocab_size: {size} is (more|less) than"):
        make_tokenizer(texts, TokenizerConfig(type=type_, vocab_size=size, character_coverage=1.0), tmp_path)
