"""CoNLL columns: one token per line, its tag in the last column, sentences apart by an empty line; and tag schemes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError
from electra_ds.finetune.tables import HUB, read_table, read_text, usual_width

DOCUMENT = "-DOCSTART-"
TOKEN_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags")


@dataclass(frozen=True)
class Sentence:
    """Tokens and, where known, one tag for each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None
    """As in the source until `to_bio` has rewritten them; None where there are none."""
    where: str
    """File and line of its first token, for messages."""


@dataclass(frozen=True)
class Read:
    """A file's sentences, and what else it held."""

    sentences: list[Sentence]
    documents: int
    """Lines that start a document (-DOCSTART-); they are no sentences."""
    dropped: int
    """Sentences left out for a ragged line, where that was asked for."""


def read_sentences(
    source: str, format: str = "auto", token_column: Any = None, tag_column: Any = None, drop: bool = False
) -> Read:
    """Read tagged sentences.

    Args:
        source: a CoNLL file, a JSON lines file or an ``hf:`` split with lists of tokens and tags.
        format: ``auto``, ``conll`` or ``jsonl``.
        token_column: column of the tokens: an index in CoNLL (default 0), a name elsewhere (default tokens or words).
        tag_column: column of the tags: an index in CoNLL (default the last), a name elsewhere (tags or ner_tags).
        drop: leave out sentences with a ragged line instead of refusing the file.

    Raises:
        DataError: which line, and why.
    """
    lists = source.startswith(HUB) or format == "jsonl" or Path(source).suffix.lower() in (".jsonl", ".json", ".ndjson")
    if lists and format != "conll":
        return _read_lists(source, token_column, tag_column)
    return _read_columns(source, token_column, tag_column, drop)


def _read_columns(source: str, token_column: Any, tag_column: Any, drop: bool) -> Read:
    for name, column in (("text_column", token_column), ("label_column", tag_column)):
        if column is not None and not isinstance(column, int):
            raise DataError(f"{name}: {column!r}, but {source} has CoNLL columns without names; give an index from 0")
    sentences: list[Sentence] = []
    documents = dropped = 0
    lines = read_text(Path(source)).split("\n")
    width = usual_width([_fields(line) for line in lines if line.strip() and not _starts_document(line)], drop)
    gathered: list[list[str]] = []
    first, bad = 0, False
    # An empty line at the end closes the last sentence.
    for number, line in enumerate([*lines, ""], start=1):
        starts_document = _starts_document(line)
        if starts_document or not line.strip():
            documents += starts_document
            if gathered or bad:
                dropped += bad
                if not bad:
                    sentences.append(_sentence(source, first, gathered, width, token_column, tag_column))
            gathered, bad = [], False
            continue
        line = line.rstrip("\r")
        fields = _fields(line)
        if len(fields) != width or not all(field.strip() for field in (fields[0], fields[-1])):
            if not drop:
                raise DataError(
                    f"{source}, line {number}: {len(fields)} columns ({line!r}), expected {width} as in the first "
                    "line, none empty; sentences are apart by an empty line. --bad_rows drop leaves such sentences out"
                )
            bad = True
        first = first if gathered else number
        gathered.append(fields)
    if not sentences:
        raise DataError(f"{source}: no sentences; expected one token per line and an empty line between sentences")
    return Read(sentences, documents, dropped)


def _starts_document(line: str) -> bool:
    return line.split()[:1] == [DOCUMENT]


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _sentence(
    source: str, line: int, rows: list[list[str]], width: int, token_column: int | None, tag_column: int | None
) -> Sentence:
    where = f"{source}, line {line}"
    token = 0 if token_column is None else token_column
    tag = width - 1 if tag_column is None else tag_column
    for name, column in (("text_column", token), ("label_column", tag)):
        if column >= width:
            raise DataError(f"{where}: no column {column}, it has {width}; name it with --{name}")
    tags = None if width == 1 else tuple(row[tag].strip() for row in rows)
    return Sentence(tuple(row[token].strip() for row in rows), tags, where)


def _read_lists(source: str, token_column: Any, tag_column: Any) -> Read:
    table = read_table(source, "jsonl")
    token = token_column or next((name for name in TOKEN_COLUMNS if table.has(name)), TOKEN_COLUMNS[0])
    tag = tag_column or next((name for name in TAG_COLUMNS if table.has(name)), TAG_COLUMNS[0])
    tokens = table.column(token, "text_column")
    tags = table.column(tag, "label_column") if table.has(tag) else [None] * len(table)
    sentences = []
    for row, (words, marks) in enumerate(zip(tokens, tags, strict=True)):
        where = table.where(row)
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise DataError(f"{where}: {token!r} is {str(words)[:60]}, expected a list of tokens, none empty")
        if marks is not None:
            if not isinstance(marks, list) or not all(isinstance(mark, str) for mark in marks):
                raise DataError(f"{where}: {tag!r} is {str(marks)[:60]}, expected a list of tags such as 'B-person'")
            if len(marks) != len(words):
                raise DataError(f"{where}: {len(words)} tokens but {len(marks)} tags; expected one tag for each token")
        if words:
            sentences.append(Sentence(tuple(words), None if marks is None else tuple(marks), where))
    if not sentences:
        raise DataError(f"{source}: no sentences")
    return Read(sentences, 0, len(table) - len(sentences))


def scheme_of(tag_lists: Sequence[Sequence[str]]) -> str:
    """Tell how tags mark entities: ``bioes``, ``iob1`` (B- only between touching entities of a type) or ``bio``."""
    prefixes = Counter(tag.partition("-")[0] for tags in tag_lists for tag in tags)
    if any(prefixes[name] for name in "ESLU"):
        return "bioes"
    if not prefixes["I"]:
        return "bio"
    starts_inside = opens_needlessly = False
    for tags in tag_lists:
        before = "O"
        for tag in tags:
            same = before != "O" and before.partition("-")[2] == tag.partition("-")[2]
            if tag.startswith("I-") and not same:
                starts_inside = True
            if tag.startswith("B-") and not same:
                opens_needlessly = True
            before = tag
    return "iob1" if starts_inside and not opens_needlessly else "bio"


def to_bio(sentence: Sentence, scheme: str) -> tuple[Sentence, int]:
    """Rewrite a sentence's tags to BIO.

    Returns:
        The sentence, and how many entities began with I- though the scheme wants B-; they are read as beginnings.

    Raises:
        DataError: a tag that is neither O nor prefix, hyphen, type.
    """
    allowed = "BIESLU" if scheme == "bioes" else "BI"
    result: list[str] = []
    before, mended = "O", 0
    for tag in sentence.tags or ():
        prefix, hyphen, kind = tag.partition("-")
        if tag == "O":
            result.append(tag)
        elif not hyphen or not kind or prefix not in allowed or len(prefix) != 1:
            raise DataError(
                f"{sentence.where}: a tag {tag!r}, expected O or one of {', '.join(allowed)}, a hyphen and a type "
                f"(the tags of this sentence: {' '.join(sentence.tags or ())[:80]}); see --tag_scheme"
            )
        else:
            goes_on = before != "O" and before[2:] == kind and before[0] not in "ESLU"
            begins = prefix in "BSU" or not goes_on
            mended += begins and prefix in "IEL" and scheme != "iob1"
            result.append(f"{'B' if begins else 'I'}-{kind}")
        before = tag
    return Sentence(sentence.tokens, tuple(result), sentence.where), mended


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the entities of BIO tags as (first token, token after the last, type)."""
    found: list[tuple[int, int, str]] = []
    for number, tag in enumerate(tags):
        if tag.startswith("I-") and found and found[-1][1] == number and found[-1][2] == tag[2:]:
            found[-1] = (found[-1][0], number + 1, tag[2:])
        elif tag != "O":
            found.append((number, number + 1, tag[2:]))
    return found
