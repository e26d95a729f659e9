"""SentencePiece unigram and BPE: training, and export to a Hugging Face folder with the same ids."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoder import MODEL_FILE, missing_special
from data_prep.tokenizer.special import SPECIAL_TOKENS, template, write_folder
from electra_ds.errors import UserError
from electra_ds.files import atomic_write

TRAINING_THREADS = 2
"""Fixed: the sums of the EM steps depend on how many threads share the work."""

_SPELLINGS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""Special tokens as published .model files spell them."""


def make(texts: Iterable[str], config: TokenizerConfig, folder: Path) -> None:
    """Train on `texts` and write tokenizer.model and the Hugging Face files (see `make_tokenizer`)."""
    from sentencepiece import SentencePieceTrainer

    model = BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=config.type,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            normalization_rule_name="nmt_nfkc_cf" if config.lowercase else "nmt_nfkc",
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=SPECIAL_TOKENS["pad"],
            unk_piece=SPECIAL_TOKENS["unk"],
            bos_piece=SPECIAL_TOKENS["cls"],
            eos_piece=SPECIAL_TOKENS["sep"],
            control_symbols=[SPECIAL_TOKENS["mask"]],
            input_sentence_size=0,
            num_threads=TRAINING_THREADS,
            max_sentence_length=1 << 16,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(_explain(str(error), config)) from error
    with atomic_write(folder / MODEL_FILE) as file:
        file.write(model.getvalue())
    export(folder / MODEL_FILE, folder)


def export(model_file: Path, folder: Path) -> None:
    """Write a SentencePiece model into `folder` as a Hugging Face tokenizer, the .model beside it.

    Raises:
        UserError: not a SentencePiece model, or a special token is missing.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(model_file.read_bytes())
        SentencePieceProcessor(model_file=str(model_file))
    except Exception as error:
        raise UserError(
            f"tokenizer.path: {model_file} is not a SentencePiece model that can be read ({error})"
        ) from error
    pieces = {piece.piece: id_ for id_, piece in enumerate(proto.pieces)}
    spelling, ids = {}, {}
    for role, spellings in _SPELLINGS.items():
        found = next((name for name in spellings if name in pieces), None)
        if found is None:
            raise UserError(missing_special(str(model_file), role, None))
        spelling[role], ids[role] = found, pieces[found]
    tokenizer = _tokenizer(proto)
    tokenizer.post_processor = template(ids, spelling)
    if model_file != folder / MODEL_FILE:
        shutil.copyfile(model_file, folder / MODEL_FILE)
    # `exported_by` tells load_encoder that the .model gives the same ids as tokenizer.json.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "exported_by": "electra_ds"}
    write_folder(folder, tokenizer, ids, spelling, settings)


def _tokenizer(proto: Any) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    unk = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == 1:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        tokenizer = Tokenizer(models.Unigram(scores, unk, proto.trainer_spec.byte_fallback))
    else:
        vocabulary = {piece.piece: id_ for id_, piece in enumerate(proto.pieces)}
        tokenizer = Tokenizer(
            models.BPE(
                vocabulary,
                _merges(proto),
                unk_token=proto.pieces[unk].piece,
                fuse_unk=True,
                byte_fallback=proto.trainer_spec.byte_fallback,
            )
        )
    rules = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if proto.normalizer_spec.precompiled_charsmap:
        rules.insert(0, normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    tokenizer.normalizer = normalizers.Sequence(rules)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _merges(proto: Any) -> list[tuple[str, str]]:
    """Return the merges of a BPE model: each piece from two others, the best-ranked first."""
    rank = {piece.piece: id_ for id_, piece in enumerate(proto.pieces) if piece.type == 1}
    merges = []
    for piece, id_ in rank.items():
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in halves if pair[0] in rank and pair[1] in rank]
        known.sort(key=lambda pair: (rank[pair[0]], rank[pair[1]]))
        merges += [(id_, pair) for pair in known]
    merges.sort(key=lambda entry: (-proto.pieces[entry[0]].score, entry[0]))
    return [pair for _, pair in merges]


def _lines(texts: Iterable[str]) -> Iterable[str]:
    """SentencePiece trains on lines; it refuses NUL."""
    for text in texts:
        for line in text.split("\n"):
            if line.strip():
                yield line.replace("\0", " ")


def _explain(message: str, config: TokenizerConfig) -> str:
    limit = re.search(r"<= (\d+)", message)
    if limit:
        return (
            f"tokenizer.vocab_size: {config.vocab_size} is more than the text supports, which gives {limit[1]} tokens; "
            f"add text, or set --tokenizer.vocab_size to {limit[1]} or less"
        )
    needed = re.search(r"required_chars[^\d]*\d+[^\d]+(\d+)|(\d+) > (\d+)", message)
    if "required_chars" in message or needed:
        return (
            f"tokenizer.vocab_size: {config.vocab_size} is less than the text's characters alone need ({message}); "
            "raise it or lower --tokenizer.character_coverage"
        )
    return f"tokenizer: SentencePiece could not train ({' '.join(message.split())}); is there enough text?"
