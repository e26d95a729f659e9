"""Tables of texts and labels: TSV, CSV, JSON lines files and `datasets`, read whole, every row or none."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_ds.errors import DataError, UserError, did_you_mean

HUB = "hf:"
"""What a name starts with that `datasets` or the model hub resolves; anything else is a local path."""
ENDINGS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl"}


class _Missing:
    """A key that a JSON line does not have (null is a value, and another mistake)."""


MISSING = _Missing()


@dataclass(frozen=True)
class Table:
    """Rows as they stand in the source."""

    source: str
    """File or data set name, for messages."""
    header: tuple[str, ...] | None
    """Column names, None where there are none."""
    rows: list[tuple[Any, ...]]
    """One tuple per row, all of the same length."""
    lines: list[int]
    """Line of the file (from 1) of each row, or row number (from 0) of a data set."""
    dropped: int = 0
    """Rows left out because they were asked to be: with too few or too many fields."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.header) if self.header is not None else len(self.rows[0])

    def where(self, row: int) -> str:
        """Name a row for a message: ``file, line 7``."""
        unit = "row" if self.source.startswith(HUB) else "line"
        return f"{self.source}, {unit} {self.lines[row]}"

    def has(self, column: int | str) -> bool:
        """Whether there is such a column."""
        return column < self.width if isinstance(column, int) else column in (self.header or ())

    def column(self, column: int | str, option: str) -> list[Any]:
        """Return the values of a column.

        Args:
            column: name, or index from 0.
            option: the option that names the column, for messages.

        Raises:
            DataError: no such column, or a row without it.
        """
        if not self.has(column):
            raise DataError(f"{self.source}: no column {column!r}; {self._columns(column)}. Name it with --{option}")
        index = column if isinstance(column, int) else (self.header or ()).index(column)
        values = [row[index] for row in self.rows]
        for row, value in enumerate(values):
            if value is MISSING:
                raise DataError(f"{self.where(row)}: no field {column!r}; every line needs one (see --{option})")
        return values

    def _columns(self, column: int | str) -> str:
        if self.header is None:
            hint = " (a number counts columns from 0; files with a header line need --header true)"
            return f"it has {self.width} columns without names{hint if isinstance(column, str) else ''}"
        return f"it has {', '.join(map(repr, self.header))}{did_you_mean(str(column), self.header)}"


def read_table(
    source: str,
    format: str = "auto",
    header: bool | None = True,
    quotes: bool | None = None,
    names: Collection[str] = (),
    bad_rows: str = "refuse",
) -> Table:
    """Read a file, or a split of a data set.

    Args:
        source: path, or ``hf:NAME[/CONFIG]:SPLIT``.
        format: ``auto``, ``tsv``, ``csv`` or ``jsonl``.
        header: whether the first line of a TSV or CSV names the columns; None: if it holds one of `names`.
        quotes: whether double quotes enclose fields; None: in CSV only.
        names: column names by which a header line is known.
        bad_rows: ``refuse`` or ``drop`` lines with too few or too many fields.

    Raises:
        DataError: missing, empty, not UTF-8, not of the format, rows of unequal length.
    """
    if source.startswith(HUB):
        return _read_dataset(source)
    path = Path(source)
    kind = ENDINGS.get(path.suffix.lower()) if format == "auto" else format
    if kind is None:
        raise UserError(f"{source}: its ending names no format; say which it is with --format tsv, csv or jsonl")
    text = read_text(path)
    if kind == "jsonl":
        return _read_json_lines(source, text)
    delimiter = "\t" if kind == "tsv" else ","
    enclosed = kind == "csv" if quotes is None else quotes
    return _read_delimited(source, text, delimiter, header, enclosed, names, bad_rows == "drop")


def read_text(path: Path) -> str:
    """Read a whole file as UTF-8, without a byte order mark; a missing, empty or broken one is a `DataError`."""
    if path.is_dir():
        raise DataError(f"{path}: a folder, expected a file (a `datasets` folder is written {HUB}{path}:SPLIT)")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (a data set of the hub is written {HUB}NAME:SPLIT)") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        raise DataError(f"{path}: empty; expected one text per line")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x} at offset {error.start}); convert the "
            "file, for example with 'iconv -f latin1 -t utf-8'"
        ) from None


def _read_delimited(
    source: str,
    text: str,
    delimiter: str,
    header: bool | None,
    quotes: bool,
    known: Collection[str],
    drop: bool,
) -> Table:
    records = list(_quoted(source, text, delimiter) if quotes else _unquoted(text, delimiter))
    if header is None:
        header = bool(records) and any(field in known for field in records[0][1])
    names = tuple(records.pop(0)[1]) if header else None
    width = len(names) if names is not None else usual_width([record for _, record in records], drop)
    while width > 1 and records and records[-1][1] == [""]:  # empty lines at the end are no rows of several columns
        records.pop()
    if not records:
        raise DataError(f"{source}: no rows after the header line; a file without one needs --header false")
    whole = [(line, record) for line, record in records if len(record) == width] if drop else records
    for line, record in whole:
        if len(record) != width:
            hint = "" if quotes else " (text that is enclosed in double quotes needs --quotes true)"
            hint += "; --bad_rows drop leaves such lines out and counts them"
            raise DataError(
                f"{source}, line {line}: {len(record)} fields, but {width} in "
                f"{'the header line' if header else 'the first line'}{hint}"
            )
    if not whole:
        raise DataError(
            f"{source}: every row has another number of fields than the {width} of the header line, so --bad_rows drop "
            f"leaves none (line {records[0][0]} has {len(records[0][1])}); a file without a header line needs --header "
            "false"
        )
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"{source}: two columns of one name in the header line {', '.join(map(repr, names))}")
    rows, lines = [tuple(record) for _, record in whole], [line for line, _ in whole]
    return Table(source, names, rows, lines, dropped=len(records) - len(whole))


def usual_width(records: Sequence[Sequence[str]], drop: bool) -> int:
    """Number of fields that every line is to have: the first line's, or the most frequent where others are dropped.

    Empty lines have no say in that; of equally frequent widths the first wins.
    """
    if not drop or not records:
        return len(records[0]) if records else 0
    counted = Counter(len(record) for record in records if list(record) != [""])
    return counted.most_common(1)[0][0] if counted else 1


def _unquoted(text: str, delimiter: str) -> Iterable[tuple[int, list[str]]]:
    # Not str.splitlines: it also breaks at U+0085 and U+2028, which occur inside texts.
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        yield number, line.removesuffix("\r").split(delimiter)


def _quoted(source: str, text: str, delimiter: str) -> Iterable[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for record in reader:
            yield start, record or [""]
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{source}, line {start}: {error}; if double quotes are part of the text, pass --quotes false"
        ) from None


def _read_json_lines(source: str, text: str) -> Table:
    objects, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{source}, line {number}: not JSON ({error}); expected one object per line") from None
        if not isinstance(value, dict):
            raise DataError(f"{source}, line {number}: a JSON {type(value).__name__}, expected one object per line")
        refuse_half_characters(f"{source}, line {number}", line, value)
        objects.append(value)
        lines.append(number)
    header = tuple(dict.fromkeys(key for value in objects for key in value))
    return Table(source, header, [tuple(value.get(key, MISSING) for key in header) for value in objects], lines)


def refuse_half_characters(where: str, text: str, value: Any) -> None:
    r"""Refuse texts with half of a surrogate pair, such as ``"\ud83d"``: JSON can say it, UTF-8 and tokenizers cannot.

    Args:
        where: file, and line where there is one.
        text: the JSON, where such halves stand as escapes, if at all.
        value: what it says.

    Raises:
        DataError: in which field.
    """
    if "\\ud" not in text.lower():
        return
    for place, found in _texts_of(value, ""):
        if half := re.search("[\ud800-\udfff]", found):
            raise DataError(
                f"{where}, field {place!r}: the text holds {half[0]!a}, half of a surrogate pair, which is no "
                f"character ({found[max(0, half.start() - 20) : half.end() + 20]!a}); write the whole character, "
                "or leave the half out"
            )


def _texts_of(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text inside a JSON value and where it stands: ``answers.text[0]``; names of fields too."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts_of(item, f"{place}[{number}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            inner = f"{place}.{name}" if place else name
            yield inner, name
            yield from _texts_of(item, inner)


def _read_dataset(source: str) -> Table:
    name, _, split = source.removeprefix(HUB).rpartition(":")
    if not name or not split:
        raise UserError(
            f"{source}: expected hf:NAME:SPLIT or hf:NAME/CONFIG:SPLIT, for example hf:nyu-mll/glue/sst2:train"
        )
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        dataset = _load_split(datasets, source, name, split)
    finally:
        if not bars:
            datasets.enable_progress_bars()
    if not len(dataset):
        raise DataError(f"{source}: empty; expected one text per row")
    columns = [_column_values(dataset, column) for column in dataset.column_names]
    return Table(source, tuple(dataset.column_names), list(zip(*columns, strict=True)), list(range(len(dataset))))


def _load_split(datasets: Any, source: str, name: str, split: str) -> Any:
    """Load one split of a folder written by `save_to_disk`, of a folder of files, or of a hub data set."""
    if (Path(name) / "dataset_dict.json").is_file():
        splits = datasets.load_from_disk(name)
        if split not in splits:
            raise DataError(f"{source}: no split '{split}'; it has {', '.join(splits)}")
        return splits[split]
    if (Path(name) / "state.json").is_file():
        raise DataError(f"{source}: a single data set without splits; save a DatasetDict, or use a JSON lines file")
    name, _, revision = name.partition("@")
    attempts: list[tuple[str, str | None]] = [(name, None)]
    if "/" in name and not Path(name).exists():
        attempts.append((name.rpartition("/")[0], name.rpartition("/")[2]))  # glue/sst2: data set and configuration
    problems = []
    for path, configuration in attempts:
        try:
            return datasets.load_dataset(path, configuration, split=split, revision=revision or None)
        except Exception as error:  # datasets, fsspec and the hub's client each raise their own kinds
            problems.append(re.sub(r"\s+", " ", f"{path}{f' ({configuration})' if configuration else ''}: {error}"))
    raise DataError(f"{source}: cannot be loaded by `datasets`: {'; '.join(problems)}")


def _column_values(dataset: Any, column: str) -> list[Any]:
    """Values of a column; class numbers become their names, and -1 (no label) None; so in lists."""
    import datasets

    values, feature = list(dataset[column]), dataset.features[column]
    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.ClassLabel):
        return [_class_name(feature, value) for value in values]
    if isinstance(inner, datasets.ClassLabel):
        return [value and [_class_name(inner, item) for item in value] for value in values]
    return values


def _class_name(feature: Any, value: int | None) -> str | None:
    return None if value is None or value < 0 else str(feature.int2str(value))
