"""Translation pairs out of one multilingual corpus whose records tell by their ids which of them are translations.

    python -m data_prep.pair --inputs corpus.jsonl.zst --output pairs.jsonl.zst \\
        --key 'xquad/(?P<language>[a-z]+)/(?P<key>.+)' --languages '["en-de", "en-es"]'

reads JSON lines and writes one line for each pair of texts with the same key in two languages, as
``electra-ds prep --parallel.text_field text_pair`` takes them. What lacks a partner is counted and listed. The texts
with a key are held in memory; all others are passed over.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_prep.config import CorpusConfig, PrepConfig
from data_prep.sources import open_sources
from data_prep.sources.json_lines import JsonLinesSource
from electra_ds.command_line import parse, print_error
from electra_ds.errors import DataError, UserError, did_you_mean
from electra_ds.files import atomic_write

PIECE_BYTES = 16_000_000
LISTED = 20
"""Keys without a partner that are shown; `missing` receives all."""

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True)
class PairConfig:
    """Write translation pairs of a multilingual corpus, found by a key in each record's id."""

    inputs: str | list[str]
    """JSON lines to read: paths or patterns, as for ``electra-ds prep``."""
    output: Path
    """File of pairs to write: .jsonl, .jsonl.gz or .jsonl.zst; one that is there is replaced."""
    key: str
    """Regular expression that matches an id from its beginning to its end; the group named ``key`` is the same for
    translations of each other. A group named ``language`` tells the language, else the record's field ``language`` or
    ``lang``. Records whose id does not match are passed over, and counted."""
    key_field: str = "id"
    """Field of the id."""
    text_field: str = "text"
    """Field of the text."""
    languages: list[str] = field(default_factory=list)
    """Pairs to write, such as ``en-de`` (the text in English first); empty: each two languages, in alphabetical
    order."""
    missing: Path | None = None
    """File for all keys without a partner, as JSON lines; unset: the first are shown."""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.key).groupindex
        except re.error as error:
            raise UserError(f"key: {self.key!r} is no regular expression ({error})") from error
        if "key" not in groups:
            raise UserError(f"key: {self.key!r} has no group named key; write (?P<key>...) around the shared part")
        if not str(self.output).endswith(ENDINGS):
            raise UserError(f"output: {self.output} has no ending that is known; expected {', '.join(ENDINGS)}")
        for pair in self.languages:
            first, _, second = pair.partition("-")
            if not first or not second or first == second:
                raise UserError(f"languages: {pair!r} is not possible; expected two languages, such as 'en-de'")


class Text(NamedTuple):
    """One record with a key."""

    text: str
    source: str
    id: str


Texts = dict[str, dict[str, Text]]
"""Key: language: text."""


def main(arguments: list[str], program: str) -> int:
    """Run the command; return 0, or raise `UserError`."""
    config = parse(PairConfig, arguments, program)
    texts, other = collect(config)
    wanted = _wanted(config, texts)
    written: Counter[str] = Counter()
    with atomic_write(config.output) as file, _compressed(file, config.output) as lines:
        for value in pairs(texts, wanted):
            lines.write((json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
            written[f"{value['language']}-{value['language_pair']}"] += 1
        if not written:
            raise UserError(f"languages: no key has texts in both languages of {', '.join(map('-'.join, wanted))}")
    matched = sum(map(len, texts.values()))
    print(f"{config.output}: {sum(written.values()):,} pairs of {matched:,} texts with {len(texts):,} keys")
    for pair, count in sorted(written.items(), key=lambda item: (-item[1], item[0]))[:LISTED]:
        print(f"  {pair}: {count:,}")
    if len(written) > LISTED:
        print(f"  and {len(written) - LISTED:,} more pairs of languages")
    print(f"  passed over, as their {config.key_field} does not match: {other:,} records")
    _tell_missing(config, texts, wanted)
    return 0


def collect(config: PairConfig) -> tuple[Texts, int]:
    """Return the texts whose id matches, and how many others there are.

    Raises:
        DataError: a record has no id, text or language, or a key comes twice in a language.
        UserError: an input is not of JSON lines, or no id matches.
    """
    prep = PrepConfig(output=Path("unused"), inputs=config.inputs, text_field=config.text_field)
    corpus: CorpusConfig = prep.resolved_corpora()[""]
    pattern = re.compile(config.key)
    texts: Texts = {}
    other = 0
    for source in open_sources(corpus, prep):
        if not isinstance(source, JsonLinesSource):
            raise UserError(f"inputs: {source.name} is not of JSON lines (.jsonl, .ndjson, .json)")
        for offset, value in _records(source):
            id_ = value.get(config.key_field)
            if not isinstance(id_, str):
                raise DataError(
                    f"{source.place(offset)}: no text in the field '{config.key_field}'; name it by --key_field"
                )
            if (found := pattern.fullmatch(id_)) is None:
                other += 1
                continue
            text, language = value.get(config.text_field), found.groupdict().get("language") or _language(value)
            if not isinstance(text, str) or not language:
                lacking = "text" if language else "language"
                raise DataError(f"{source.place(offset)}: '{id_}' has no {lacking}")
            name = value.get("source")
            entry = Text(text, name if isinstance(name, str) else "", id_)
            before = texts.setdefault(found["key"], {}).setdefault(language, entry)
            if before is not entry:
                raise DataError(
                    f"{source.place(offset)}: '{id_}' is the second text in '{language}' with the key "
                    f"'{found['key']}', after '{before.id}'; make the pattern of --key tell them apart, or remove one"
                )
    if not texts:
        raise UserError(f"key: no {config.key_field} of {other:,} records matches {config.key!r} from beginning to end")
    return texts, other


def pairs(texts: Texts, wanted: list[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Yield the pairs as objects of the output, key by key in the order of the input."""
    for key, found in texts.items():
        for first, second in wanted:
            if first in found and second in found:
                yield {
                    "id": key,
                    "source": found[first].source,
                    "language": first,
                    "text": found[first].text,
                    "language_pair": second,
                    "text_pair": found[second].text,
                }


def missing(texts: Texts, wanted: list[tuple[str, str]]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each key that lacks a text some wanted pair needs: the languages it has, and those it lacks."""
    languages = sorted({language for pair in wanted for language in pair})
    for key, found in texts.items():
        alone = [pair for pair in wanted if (pair[0] in found) != (pair[1] in found)]
        if alone:
            needed = {language for pair in alone for language in pair}
            yield key, [name for name in languages if name in found], sorted(needed - found.keys())


def _wanted(config: PairConfig, texts: Texts) -> list[tuple[str, str]]:
    there = sorted({language for found in texts.values() for language in found})
    if not config.languages:
        if len(there) < 2:
            raise UserError(f"key: all texts that match are in '{there[0]}'; there is nothing to pair")
        return list(itertools.combinations(there, 2))
    wanted = []
    for pair in config.languages:
        splits = [(pair[:n], pair[n + 1 :]) for n, sign in enumerate(pair) if sign == "-"]
        known = [split for split in splits if split[0] in there and split[1] in there]
        if len(known) != 1:
            raise UserError(
                f"languages: '{pair}' names no two languages of the texts that match, which are {', '.join(there)}"
                f"{did_you_mean(pair.partition('-')[0], there)}"
            )
        wanted.append(known[0])
    return wanted


def _tell_missing(config: PairConfig, texts: Texts, wanted: list[tuple[str, str]]) -> None:
    found = list(missing(texts, wanted))
    print(f"  without a partner: {len(found):,} keys")
    if config.missing is not None:
        with atomic_write(config.missing, "w") as file:
            for key, has, lacks in found:
                file.write(json.dumps({"key": key, "has": has, "lacks": lacks}, ensure_ascii=False) + "\n")
        print(f"  listed in {config.missing}")
        return
    for key, has, lacks in found[:LISTED]:
        print(f"    {key}: has {', '.join(has)}; lacks {', '.join(lacks)}")
    if len(found) > LISTED:
        print(f"    and {len(found) - LISTED:,} more; --missing FILE lists all")


def _records(source: JsonLinesSource) -> Iterator[tuple[int, dict[str, Any]]]:
    dropped: Counter[str] = Counter()
    for piece in source.pieces(PIECE_BYTES):
        dropped.update(piece.dropped)
        for offset, value, _ in source.objects(piece, dropped):
            yield offset, value
    if count := dropped["too long"]:
        print(f"{source.name}: {count:,} lines of more than {source.limit:,} bytes passed over", file=sys.stderr)


def _language(value: dict[str, Any]) -> str:
    found = value.get("language", value.get("lang"))
    return found if isinstance(found, str) else ""


def _compressed(file: IO[bytes], path: Path) -> Any:
    """Write as the path's ending says; no time of writing goes into the bytes."""
    if path.suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdCompressor(level=10).stream_writer(file, closefd=False)
    return nullcontext(file)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], "python -m data_prep.pair"))
    except UserError as problem:
        print_error(problem)
        sys.exit(2)
