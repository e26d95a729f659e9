"""Tiny random models and a tiny WordPiece tokenizer: everything fine-tuning needs, made in a second."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

ANIMALS = ["cat", "dog", "fish", "horse", "mouse", "bird", "cow", "sheep"]
FOODS = ["bread", "cheese", "apple", "soup", "rice", "butter", "sugar", "salt"]
COMMON = ["the", "a", "is", "was", "very", "here", "there", "and", "of", "with", "small", "big", "old", "new"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ANIMALS, *FOODS, *COMMON]


def write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """Save a BERT-like WordPiece tokenizer of exactly these tokens."""
    from transformers import BertTokenizer

    BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=True).save_pretrained(folder)


def write_electra(folder: Path, vocab_size: int = len(VOCABULARY), **changes: int) -> None:
    """Save a random discriminator of one layer."""
    import torch
    from transformers import ElectraConfig, ElectraForPreTraining

    shape = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=vocab_size, embedding_size=16, max_position_embeddings=64, initializer_range=0.2, **(shape | changes)
    )
    ElectraForPreTraining(config).save_pretrained(folder)


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of common words with one animal or one food, which is the label."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label, words = [("animal", ANIMALS), ("food", FOODS)][number % 2]
        text = draw.choices(COMMON, k=draw.randint(2, 6))
        text.insert(draw.randrange(len(text)), draw.choice(words))
        rows.append((" ".join(text), label))
    return rows


def write_tsv(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] | None = ("text", "label")) -> Path:
    """Write rows as they are, no quoting."""
    lines = ([header] if header else []) + rows
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def discriminator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ElectraForPreTraining with its tokenizer, as `convert` leaves one."""
    folder = tmp_path_factory.mktemp("hf") / "discriminator"
    write_electra(folder)
    write_tokenizer(folder, VOCABULARY)
    return folder


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "train.tsv", sentences(96, seed=1))


@pytest.fixture
def validation_file(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "dev.tsv", sentences(40, seed=2))
