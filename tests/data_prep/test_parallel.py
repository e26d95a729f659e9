"""Translation pairs: read, cleaned, split and packed together, whatever the number of processes."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from tokenizers import Tokenizer

from data_prep.config import ParallelConfig, PrepConfig
from data_prep.report.removed import removal
from electra_ds.cli import main
from electra_ds.data.config import DataConfig
from electra_ds.data.format import read_manifest
from electra_ds.data.loader import RowSource
from electra_ds.data.shards import ShardSet
from electra_ds.errors import DataError
from tests.conftest import environment, real_documents
from tests.data_prep.conftest import SMALL, SMALL_PIECES, blocks, contents, prep, refusal, write_json_lines
from tests.data_prep.reading import keeps_its_promises, opened, read

PAIRED = {"parallel.text_field": "text_pair", "parallel.language": "xx", "language": "en"}


def backwards(text: str) -> str:
    """A translation that can be told: each word from its end, in the same order."""
    return " ".join(word[::-1].lower() for word in text.split())


def sentences(count: int = 600) -> list[str]:
    """Short real sentences whose characters are all frequent: none becomes [UNK]."""
    found = [" ".join(line.split()) for text in real_documents() for line in text.split(". ")]
    return [text for text in dict.fromkeys(found) if 20 < len(text) < 300 and re.fullmatch(r"[A-Za-z ,.()-]+", text)][
        :count
    ]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return sentences()


@pytest.fixture(scope="module")
def pairs(texts, tmp_path_factory) -> Path:
    rows = [{"text": text, "text_pair": backwards(text)} for text in texts]
    return write_json_lines(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def prepared(pairs, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "set"
    assert prep(pairs, output, **PAIRED) == 0
    return output


def decoded(folder: Path, split: str = "train") -> list[tuple[str, str]]:
    """The pairs of a split, white space left out, as they stand."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    found = []
    for block in blocks(folder, split):
        pieces = [
            "".join(tokenizer.decode(piece.tolist()).split()) for piece in np.split(block.tokens, block.documents[1:])
        ]
        assert len(pieces) % 2 == 0
        found += list(zip(pieces[::2], pieces[1::2], strict=True))
    return found


def joined(text: str) -> str:
    return "".join(text.lower().split())


def test_pairs_stay_together_through_every_stage(prepared, texts):
    expected = {(joined(text), joined(backwards(text))) for text in texts}
    train, validation = decoded(prepared), decoded(prepared, "validation")
    assert len(train) + len(validation) == len(texts)
    assert set(train) | set(validation) == expected
    assert validation
    assert [a for a, _ in train] != [joined(text) for text in texts][: len(train)], "they are shuffled"
    assert len(blocks(prepared, "train")) > 3, "of several blocks, none of which begins inside a pair"


def test_the_manifest_and_the_blocks_tell_languages_and_kind(prepared, texts):
    manifest = read_manifest(prepared)
    assert {shard.kind for shards in manifest.splits.values() for shard in shards} == {"pairs"}
    corpus = manifest.statistics["corpora"][""]
    assert corpus["translation_pairs"] == len(texts)
    assert corpus["documents_read"] == corpus["documents"] == 2 * len(texts)
    assert {name: entry["documents"] for name, entry in corpus["languages"].items()} == {
        "en": len(texts),
        "xx": len(texts),
    }
    assert manifest.config["parallel"] == {"text_field": "text_pair", "language": "xx"}
    for block in blocks(prepared, "train"):
        labels = [block.label(document)[1] for document in range(len(block.documents))]
        assert labels == ["en", "xx"] * (len(labels) // 2)
        assert block.metadata["runs"] == [[0, 0]]


@pytest.mark.parametrize("changes", [{"workers": 2}, {"workers": 3}])
def test_any_number_of_processes_gives_the_same_bytes(changes, pairs, prepared, tmp_path):
    assert prep(pairs, tmp_path / "set", **PAIRED, **changes) == 0
    assert contents(tmp_path / "set") == contents(prepared)


def test_pairs_stay_together_over_ranks(texts, prep_command, tmp_path):
    """Pieces of several files, copies among them, and shards, each made by another rank."""
    rows = [{"text": text, "text_pair": backwards(text)} for text in texts * 3]
    for number in range(3):
        write_json_lines(tmp_path / f"part{number}.jsonl", rows[number::3])
    given = {"inputs": f"{tmp_path}/part*.jsonl", "workers": 1, "shard_blocks": 1, **PAIRED}
    assert prep(output=tmp_path / "alone", **given) == 0
    command = prep_command(3, output=tmp_path / "ranks", **given)
    variables = environment(PIECE_BYTES=str(SMALL_PIECES))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "ranks") == contents(tmp_path / "alone")
    found = decoded(tmp_path / "alone") + decoded(tmp_path / "alone", "validation")
    assert sorted(found) == sorted((joined(text), joined(backwards(text))) for text in texts)


def test_a_tokenizer_at_hand_gives_the_same_shards_in_one_pass(pairs, prepared, tmp_path):
    options = {"tokenizer.type": "existing", "tokenizer.path": prepared / "tokenizer", "tokenizer.vocab_size": None}
    assert prep(pairs, tmp_path / "set", **PAIRED, **options) == 0
    assert decoded(tmp_path / "set") == decoded(prepared)


def test_unshuffled_pairs_keep_their_order_over_several_shards(pairs, texts, tmp_path):
    assert prep(pairs, tmp_path / "set", **PAIRED, shuffle="false", validation_fraction=0, shard_blocks=1) == 0
    assert len(read_manifest(tmp_path / "set").splits["train"]) > 3
    assert decoded(tmp_path / "set") == [(joined(text), joined(backwards(text))) for text in texts]


def test_a_row_shows_a_text_beside_its_own_translation(prepared):
    source = RowSource(ShardSet(prepared), DataConfig(path=str(prepared)), 256, seed=0)
    rows = source.at(np.arange(source.total))
    assert rows.pair_rows.all()
    tokenizer = Tokenizer.from_file(str(prepared / "tokenizer/tokenizer.json"))
    known = decoded(prepared)
    whole = segments = 0
    for ids, numbers, types in zip(rows.ids, rows.segments, rows.token_types, strict=True):
        for number in range(1, numbers.max() + 1):
            here = numbers == number
            a, b = (joined(tokenizer.decode(ids[here & (types == kind)].tolist())).replace("##", "") for kind in (0, 1))
            assert any((a in one and b in two) or (b in one and a in two) for one, two in known)
            whole += (a, b) in known or (b, a) in known
            segments += 1
    assert segments >= len(known)
    assert whole > 0.8 * len(known)


def test_copies_are_copies_of_whole_pairs(texts, tmp_path):
    first, second, third = texts[:3]
    rows = [{"text": text, "text_pair": backwards(text)} for text in texts[:60]]
    rows += [
        {"text": first, "text_pair": backwards(first)},  # a copy
        {"text": first, "text_pair": backwards(second)},  # another translation: kept
        {"text": third, "text_pair": third},  # equal texts are no copies of each other
    ]
    path = write_json_lines(tmp_path / "pairs.jsonl", rows)
    options = {"dedup.near": "true", "tokenizer.vocab_size": 200, "validation_fraction": 0, "block_tokens": 100_000}
    assert prep(path, tmp_path / "set", **PAIRED, **options) == 0
    statistics = read_manifest(tmp_path / "set").statistics
    assert statistics["duplicates"]["exact"] == 2
    found = Counter(decoded(tmp_path / "set"))
    assert found[joined(first), joined(backwards(first))] == 1
    assert found[joined(first), joined(backwards(second))] == 1
    assert found[joined(third), joined(third)] == 1


def test_near_copies_are_found_of_pairs(texts, tmp_path):
    long = " ".join(texts[:12])
    rows = [{"text": text, "text_pair": backwards(text)} for text in [*texts[20:60], long, long + " end"]]
    path = write_json_lines(tmp_path / "pairs.jsonl", rows)
    assert prep(path, tmp_path / "set", **PAIRED, **{"dedup.near": "true", "tokenizer.vocab_size": 200}) == 0
    assert read_manifest(tmp_path / "set").statistics["duplicates"]["near"] == 2


def test_a_pair_of_which_one_text_is_dropped_goes_as_a_whole_and_is_counted(texts, prepared, tmp_path):
    rows = [{"text": text, "text_pair": backwards(text)} for text in texts[:40]]
    rows += [{"text": "Nothing stands opposite.", "text_pair": " "}, {"text": "", "text_pair": "yb flesti"}]
    rows += [{"text": "", "text_pair": ""}, {"text": "No token stands opposite.", "text_pair": "\u200b\x01"}]
    path = write_json_lines(tmp_path / "pairs.jsonl", rows)
    options = {"tokenizer.type": "existing", "tokenizer.path": prepared / "tokenizer", "tokenizer.vocab_size": None}
    assert prep(path, tmp_path / "set", **PAIRED, **options) == 0
    manifest = read_manifest(tmp_path / "set")
    dropped = manifest.statistics["documents_dropped"]
    assert dropped == {"empty": 4, "its translation was dropped": 2, "without a token": 2}
    assert manifest.statistics["documents_read"] == 88
    whole = removal(manifest)
    assert whole.steps[-1].left == whole.kept == 80
    assert not whole.skipped, "all of them were read"
    found = decoded(tmp_path / "set") + decoded(tmp_path / "set", "validation")
    assert len(found) == 40
    assert all(a and b for a, b in found)


def test_the_summary_counts_pairs(pairs, prepared, texts, capfd):
    assert prep(pairs, prepared, **PAIRED) == 0, "finished: it is only said again"
    assert f"of these {len(texts):,} translation pairs, two documents each" in capfd.readouterr().out


def test_languages_of_the_records_are_kept_and_group_the_shards(texts, tmp_path):
    names = [("de", "en"), ("en", "de"), ("en", "fr")]
    rows = [
        {"text": text, "text_pair": backwards(text), "language": a, "lang_pair": b}
        for text, (a, b) in zip(texts[:90], itertools.cycle(names), strict=False)
    ]
    single = [{"text": f"Nur ein deutscher Satz, Nummer {n}.", "language": "de"} for n in range(50)]
    config = {
        "output": str(tmp_path / "set"),
        "corpora": {
            "pairs": {
                "inputs": str(write_json_lines(tmp_path / "pairs.jsonl", rows)),
                "parallel": {"text_field": "text_pair"},
            },
            "text": {"inputs": str(write_json_lines(tmp_path / "text.jsonl", single))},
        },
        **{key: value for key, value in SMALL.items() if "." not in key},
        "group_by": "language",
        "tokenizer": {"vocab_size": 200},
    }
    path = tmp_path / "prep.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    assert main(["prep", "--config", str(path)]) == 0
    manifest = read_manifest(tmp_path / "set")
    kinds = {shard.corpus: shard.kind for shard in manifest.splits["train"]}
    assert kinds == {"de": "text", "de-en": "pairs", "en-fr": "pairs"}
    assert "parallel" not in manifest.config
    assert "parallel" not in manifest.config["corpora"]["text"]
    seen = Counter()
    for block in blocks(tmp_path / "set", "train") + blocks(tmp_path / "set", "validation"):
        if block.metadata.get("pairs"):
            labels = [block.label(document)[1] for document in range(len(block.documents))]
            seen.update(zip(labels[::2], labels[1::2], strict=True))
    assert seen == dict.fromkeys(names, 30)
    source = RowSource(
        ShardSet(tmp_path / "set"), DataConfig(path="x", mixing="temperature", temperature=10 / 7), 64, 0
    )
    rows_found = source.at(np.arange(400))
    assert 0.2 < rows_found.pair_rows.mean() < 0.95


def test_inspect_shows_pairs_as_pairs(prepared, texts, capsys):
    assert main(["inspect", str(prepared), "--documents", "2"]) == 0
    shown = capsys.readouterr().out
    assert "with translation pairs" in shown
    lines = [line for line in shown.splitlines() if line.startswith("  pair ")]
    names = [line.partition("]")[0] for line in lines]
    assert names == [
        f"  pair {n}, {side} [{language} pairs.jsonl" for n in (0, 1) for side, language in (("a", "en"), ("b", "xx"))
    ]
    a, b = (joined(line.partition("sentences: ")[2]) for line in lines[:2])
    assert any((joined(text), joined(backwards(text))) == (a, b) for text in texts) or a.endswith("...")
    assert main(["inspect", str(prepared), "--row", "0"]) == 0
    shown = capsys.readouterr().out
    assert "segment 1, translation pair: slots 0-" in shown
    assert "token type 0: [CLS]" in shown and "token type 1: " in shown
    assert "pairs of this block" in shown
    for number, other in ((4, 5), (5, 4)):
        assert main(["inspect", str(prepared), "--document", str(number)]) == 0
        assert f"; document {other} is its translation" in capsys.readouterr().out


def test_settings_without_pairs_are_recorded_as_ever():
    assert "parallel" not in PrepConfig(output=Path("x"), inputs="a.txt").recorded()


# Moses files


def write_moses(folder: Path, first: str, second: str, names: tuple[str, str] = ("corpus.en", "corpus.de")) -> str:
    paths = [folder / name for name in names]
    for path, text in zip(paths, (first, second), strict=True):
        data = text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return f"moses:{paths[0]}+{paths[1]}"


LINES = [(f"line {n} " * (n % 7 + 1), f"Zeile {n} " * (n % 5 + 1)) for n in range(40)]
FIRST, SECOND = ("".join(pair[side] + "\n" for pair in LINES) for side in (0, 1))


@pytest.mark.parametrize("names", [("corpus.en", "corpus.de"), ("a+b.en.gz", "a+b.de"), ("corpus.de-en.en", "x.pt-BR")])
def test_lines_of_two_files_are_pairs(names, tmp_path):
    [source] = opened(write_moses(tmp_path, FIRST, SECOND, names))
    found = keeps_its_promises(source)
    assert [(one.text, one.translation.text) for one in found] == LINES
    languages = [name.removesuffix(".gz").rpartition(".")[2] for name in names]
    assert {(one.language, one.translation.language) for one in found} == {tuple(languages)}
    assert {(one.origin, one.translation.origin) for one in found} == {names}
    assert source.identity()["bytes"] == sum(source.identity()["files"])


def test_named_languages_go_before_endings_and_odd_endings_tell_none(tmp_path):
    pattern = write_moses(tmp_path, FIRST, SECOND, ("a.txt", "b.tgt"))
    [source] = opened(pattern)
    assert {(one.language, one.translation.language) for one in read(source)} == {("", "")}
    [source] = opened(pattern, language="nl", parallel=ParallelConfig(language="fy"))
    assert {(one.language, one.translation.language) for one in read(source)} == {("nl", "fy")}


def test_line_ends_byte_order_marks_and_a_missing_last_end_do_no_harm(tmp_path):
    [source] = opened(write_moses(tmp_path, "\ufeffone\r\ntwo", "\ufeffeins\nzwei\n"))
    assert [(one.text, one.translation.text) for one in keeps_its_promises(source, (1, 1 << 22))] == [
        ("one", "eins"),
        ("two", "zwei"),
    ]


def test_a_line_too_long_takes_its_partner_along_and_is_counted(tmp_path):
    [source] = opened(
        write_moses(tmp_path, "one\n" + "x" * 3_000_000 + "\nthree\n", "eins\nzwei\ndrei\n"), max_document_bytes=1000
    )
    dropped: Counter[str] = Counter()
    assert [one.text for one in read(source, dropped=dropped)] == ["one", "three"]
    assert dropped == {"too long": 1}


@pytest.mark.parametrize(("first", "second", "told"), [("a\nb\n", "c\n", "2 and"), ("a\n", "b\nc\nd\n", "1 and")])
def test_files_of_unequal_length_are_refused_with_both_counts(first, second, told, tmp_path):
    [source] = opened(write_moses(tmp_path, first, second))
    with pytest.raises(DataError, match=rf"corpus\.en {told} \S+corpus\.de {second.count(chr(10))} lines"):
        read(source)


def test_bytes_of_another_encoding_are_told_by_file_and_line(tmp_path):
    pattern = write_moses(tmp_path, FIRST, SECOND)
    data = (tmp_path / "corpus.de").read_bytes().split(b"\n")
    data[7] = b"gr\xfc\xdfe"
    (tmp_path / "corpus.de").write_bytes(b"\n".join(data))
    with pytest.raises(DataError, match=r"corpus\.de:8: not UTF-8 .*0xfc"):
        read(opened(pattern)[0])
    assert read(opened(pattern, encoding_errors="replace")[0])[7].translation.text == "gr\ufffd\ufffde"
    assert read(opened(pattern, encoding="latin-1")[0])[7].translation.text == "grüße"


def test_moses_files_become_a_set(texts, tmp_path):
    pattern = write_moses(tmp_path, *("".join(f(text) + "\n" for text in texts[:200]) for f in (str, backwards)))
    assert prep(pattern, tmp_path / "set", **{"tokenizer.vocab_size": 300}) == 0
    found = decoded(tmp_path / "set") + decoded(tmp_path / "set", "validation")
    assert set(found) == {(joined(text), joined(backwards(text))) for text in texts[:200]}


# Bad input


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("{0}/a.txt", PAIRED, r"parallel\.text_field: .*a\.txt is not of JSON lines"),
        (
            "{0}/single.jsonl",
            PAIRED,
            r"single\.jsonl:1: no field 'text_pair' \(its fields: text\).*--parallel\.text_field",
        ),
        (
            "{0}/null.jsonl",
            PAIRED,
            r"null\.jsonl:1: the text field 'text_pair' is missing or null.*--parallel\.text_field",
        ),
        ("moses:{0}/a.txt", {}, r"'moses:.*a\.txt' does not name two files"),
        ("moses:{0}/a.txt+{0}/none.de", {}, r"does not name two files"),
        ('["moses:{0}/a.txt+{0}/a.txt", "{0}/single.jsonl"]', {}, r"a\.txt has translations, .*single\.jsonl has none"),
    ],
)
def test_inputs_that_are_no_pairs_are_told(inputs, options, message, tmp_path, capfd):
    (tmp_path / "a.txt").write_text("a line\n")
    write_json_lines(tmp_path / "single.jsonl", [{"text": "alone"}])
    write_json_lines(tmp_path / "null.jsonl", [{"text": "a", "text_pair": None}])
    error = refusal(capfd, lambda: prep(inputs.format(tmp_path), tmp_path / "set", **options))
    assert re.search(message, error), error


def test_a_group_of_pairs_and_texts_is_refused(texts, tmp_path, capfd):
    rows = [
        {"text": text, "text_pair": backwards(text), "language": "de", "language_pair": "en"} for text in texts[:20]
    ]
    single = [{"text": text, "language": "de-en"} for text in texts[20:40]]
    config = {
        "output": str(tmp_path / "set"),
        "corpora": {
            "a": {"inputs": str(write_json_lines(tmp_path / "a.jsonl", rows)), "parallel": {"text_field": "text_pair"}},
            "b": {"inputs": str(write_json_lines(tmp_path / "b.jsonl", single))},
        },
        "group_by": "language",
        "workers": 1,
        "tokenizer": {"vocab_size": 100},
    }
    (tmp_path / "prep.yaml").write_text(json.dumps(config))
    error = refusal(capfd, lambda: main(["prep", "--config", str(tmp_path / "prep.yaml")]))
    assert "language 'de-en' has translation pairs and single texts" in error
