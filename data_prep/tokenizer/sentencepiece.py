"""SentencePiece unigram and BPE: training, and export to a Hugging Face folder with the same ids.

The two libraries read SentencePiece's normalisation table differently. Inside a short grapheme of several characters,
`tokenizers` applies the shortest rule that fits its beginning and forgets the rest: with the stock ``nmt_nfkc_cf``
table "O" with a macron below becomes "o", and a decomposed "É" becomes "e". So the text is composed first (NFKC, on
both sides), the trained table has rules for single characters only, and on the Hugging Face side every grapheme of
several characters is made too long for the short cut by characters that the table deletes again.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from data_prep.config import TokenizerConfig
from data_prep.tokenizer.encoder import MODEL_FILE, missing_special
from data_prep.tokenizer.special import SPECIAL_TOKENS, template, write_folder
from electra_ds.errors import UserError
from electra_ds.files import atomic_write

TRAINING_THREADS = 2
"""Fixed: the sums of the EM steps depend on how many threads share the work."""

SCORE_STEPS = 256
"""Unigram scores are rounded to this part of one: their sums are then exact in float32 and in float64, so both
libraries, a sentence and a whole text break ties between two segmentations alike."""

UNICODE_FORM: Literal["NFKC"] = "NFKC"
"""Composition applied to a text before SentencePiece sees it."""

_JOINER = "\u034f"
"""COMBINING GRAPHEME JOINER: has no meaning, belongs to the grapheme before it, two bytes long."""

_EXTENDS_GRAPHEME = r"(?=[\p{M}\x{200C}\x{200D}\x{FF9E}\x{FF9F}])"

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
    from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2

    model = BytesIO()
    rules = folder / "rules.tsv"
    rules.write_text(_single_character_rules("nmt_nfkc_cf" if config.lowercase else "nmt_nfkc"), "utf-8")
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=config.type,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            normalization_rule_tsv=str(rules),
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=SPECIAL_TOKENS["pad"],
            unk_piece=SPECIAL_TOKENS["unk"],
            bos_piece=SPECIAL_TOKENS["cls"],
            eos_piece=SPECIAL_TOKENS["sep"],
            control_symbols=[SPECIAL_TOKENS["mask"]],
            num_threads=TRAINING_THREADS,
            max_sentence_length=1 << 16,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(_explain(str(error), config)) from error
    finally:
        rules.unlink()
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")  # a path of this machine
    if config.type == "unigram":
        for piece in proto.pieces:
            piece.score = round(piece.score * SCORE_STEPS) / SCORE_STEPS
    with atomic_write(folder / MODEL_FILE) as file:
        file.write(proto.SerializeToString(deterministic=True))
    # `exported_by` tells load_encoder that the .model gives the same ids as tokenizer.json.
    export(folder / MODEL_FILE, folder, {"exported_by": "electra_ds", "unicode_form": UNICODE_FORM})


def export(model_file: Path, folder: Path, settings: dict[str, str] | None = None) -> None:
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
    write_folder(folder, tokenizer, ids, spelling, {"tokenizer_class": "PreTrainedTokenizerFast", **(settings or {})})


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
    spec = proto.normalizer_spec
    rules: list[Any] = []
    if spec.precompiled_charsmap:
        if "nfkc" in spec.name or spec.name == "user_defined":
            rules.append(normalizers.NFKC())
        rules.append(normalizers.Replace(Regex(_EXTENDS_GRAPHEME), 2 * _JOINER))
        rules.append(normalizers.Precompiled(spec.precompiled_charsmap))
        rules.append(normalizers.Replace(_JOINER, ""))
    if spec.remove_extra_whitespaces:
        rules += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence(rules)
    scheme = "always" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return tokenizer


def _single_character_rules(name: str) -> str:
    """Return the rules of SentencePiece's table `name` that replace one character, as its TSV format wants them."""
    from sentencepiece import SentencePieceNormalizer

    normalizer = SentencePieceNormalizer(
        rule_name=name, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
    )
    lines = [f"{ord(_JOINER):X}\t\n"]
    for code in (*range(1, 0xD800), *range(0xE000, 0x110000)):
        character = chr(code)
        normal = normalizer.normalize(character)
        if normal != character and character != _JOINER:
            lines.append(f"{code:X}\t{' '.join(f'{ord(target):X}' for target in normal)}\n")
    return "".join(lines)


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
                yield unicodedata.normalize(UNICODE_FORM, line.replace("\0", " "))


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
