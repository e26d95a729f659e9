"""Training BERT's WordPiece, the same bytes every time.

The trainer of `tokenizers` numbers the pieces ``##x`` in the order of a randomly seeded hash map, and ties between
merges are broken by number, so two trainings on the same text differ. Here the alphabet and its ``##`` forms are
given to it in sorted order, which leaves nothing to chance.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.special import SPECIAL_TOKENS, template, write_folder
from electra_ds.errors import UserError
from electra_ds.files import atomic_write


def make(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """Train on `texts` and write tokenizer.json, tokenizer_config.json and vocab.txt (see `make_tokenizer`)."""
    texts = list(texts)
    vocabulary = train(texts, config)
    if len(vocabulary) < config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size: {config.vocab_size} is more than the text supports, which gives {len(vocabulary)} "
            f"tokens; add text, or set --tokenizer.vocab_size to {len(vocabulary)} or less"
        )
    tokenizer = _tokenizer(config, vocabulary)
    ids = {role: vocabulary.index(token) for role, token in SPECIAL_TOKENS.items()}
    tokenizer.post_processor = template(ids, SPECIAL_TOKENS)
    strip = config.lowercase if config.strip_accents is None else config.strip_accents
    settings = {
        "tokenizer_class": "ElectraTokenizer",
        "do_lower_case": config.lowercase,
        "strip_accents": strip,
        "tokenize_chinese_chars": True,
    }
    write_folder(folder, tokenizer, ids, SPECIAL_TOKENS, settings)
    with atomic_write(folder / "vocab.txt", "w") as file:
        file.writelines(token + "\n" for token in vocabulary)


def train(texts: list[str], config: TokenizerConfig) -> list[str]:
    """Return the vocabulary in the order of its ids: special tokens, alphabet, ``##`` forms, merges."""
    from tokenizers import trainers

    tokenizer = _tokenizer(config, list(SPECIAL_TOKENS.values()))
    alphabet, continuing = _alphabet(texts, tokenizer.normalizer, config)
    fixed = [*SPECIAL_TOKENS.values(), *("##" + character for character in continuing)]
    if len(fixed) + len(alphabet) > config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size: {config.vocab_size} is less than the {len(fixed) + len(alphabet)} ids that the "
            "text's characters alone need; raise it or lower --tokenizer.character_coverage"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=2,
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    known = {*fixed, *alphabet}
    merged = [token for token, _ in learned if token not in known]
    return [*SPECIAL_TOKENS.values(), *alphabet, *fixed[len(SPECIAL_TOKENS) :], *merged]


def _tokenizer(config: TokenizerConfig, vocabulary: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    model = models.WordPiece({token: id_ for id_, token in enumerate(vocabulary)}, unk_token=SPECIAL_TOKENS["unk"])
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=config.lowercase if config.strip_accents is None else config.strip_accents,
        lowercase=config.lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _alphabet(texts: list[str], normalizer: Any, config: TokenizerConfig) -> tuple[list[str], list[str]]:
    """Return the characters to keep, and those of them that occur inside a word; both sorted."""
    counts: Counter[str] = Counter()
    # Pairs of neighbours are few; which of them stand inside a word is decided once per pair.
    pairs: set[tuple[str, str]] = set()
    for text in texts:
        normal = normalizer.normalize_str(text)
        counts.update(normal)
        pairs.update(pairwise(normal))
    alone = {character: character.isspace() or _is_punctuation(character) for character in counts}
    inside = {second for first, second in pairs if not alone[first] and not alone[second]}
    shown = {character: count for character, count in counts.items() if not character.isspace()}
    ranked = sorted(shown, key=lambda character: (-shown[character], character))
    needed = config.character_coverage * sum(shown.values())
    kept, covered = [], 0
    # A quarter of the vocabulary at most, since each character may need its ## form too.
    for character in ranked[: config.vocab_size // 4]:
        if covered >= needed:
            break
        kept.append(character)
        covered += shown[character]
    return sorted(kept), sorted(character for character in kept if character in inside)


def _is_punctuation(character: str) -> bool:
    """Tell what BERT's pre-tokenizer cuts off: ASCII symbols and Unicode punctuation."""
    symbol = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return symbol or unicodedata.category(character).startswith("P")
