"""What the tests of preparation share: a way to run the command, and what its bytes are."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import data_prep.plan
from electra_ds.cli import main
from electra_ds.data.format import Block, decode_block, read_block_bytes, read_index, read_manifest

SMALL = {
    "tokenizer.vocab_size": 400,
    "block_tokens": 2000,
    "shard_blocks": 3,
    "validation_fraction": 0.1,
    "workers": 1,
}
"""Options that make a shard set of a few kilobytes with several blocks and shards."""

POLYGLOT = (
    "Ein Satz über Vögel. Noch einer! «Und ein dritter?» fragte J. Smith.\nNeue Zeile, größer: Straße, ﬁnden, Å.",
    "В начале было Слово. И Слово было у Бога; «да?» — сказал он.",
    "中文没有空格。第二句在这里！真的吗？“是的。”他说。",
    "日本語の文章です。ｶﾀｶﾅも、ガも。「はい」と言った。",
    "هذا نص عربي. هل هذا سؤال؟ نعم، هو كذلك.",
    "यह हिन्दी है। दूसरा वाक्य यहाँ है। क्या यह ठीक है?",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "Tiếng Việt có nhiều dấu. O\u0331 decomposed E\u0301 and n\u0303, İstanbul.",
    "한국어 문장입니다. 두 번째 문장!",
    "Ellipsis.... and dots... then [MASK] and [SEP] spelled out. A\u200dB \u00a0 wide\u3000space\ttab.",
)
"""Scripts, normal forms and marks that tokenizers are known to disagree about."""


def options(**given: object) -> list[str]:
    """Arguments of ``electra-ds prep``; `given` uses __ for the dot."""
    values = {**SMALL, **{name.replace("__", "."): value for name, value in given.items()}}
    return ["prep", *(f"--{name}={value}" for name, value in values.items() if value is not None)]


def prep(inputs: object, output: Path, **given: object) -> int:
    """Run ``electra-ds prep`` in this process; return its exit status."""
    return main(options(inputs=inputs, output=output, **given))


SCRIPT = """
import os, signal, sys
import data_prep.plan

data_prep.plan.PIECE_BYTES = int(os.environ["PIECE_BYTES"])
left = int(os.environ.get("KILL_AT_RENAME", "0"))
rename = os.replace


def replace(*paths):
    global left
    left -= 1
    if left == 0 and os.environ["KILL_WHEN"] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


os.replace = replace

from electra_ds.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
"""The command with small pieces; killed at its n-th rename if the environment says so."""


@pytest.fixture
def prep_command(tmp_path) -> Callable[..., list[str]]:
    """Function of the options: the command line of a preparation in a process of its own."""
    script = tmp_path / "run_prep.py"
    script.write_text(SCRIPT)
    return lambda ranks=1, **given: [
        *([str(Path(sys.executable).with_name("mpirun")), "-n", str(ranks)] if ranks > 1 else []),
        *(sys.executable, str(script), *options(**given)),
    ]


def refusal(capfd: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    """Run a command that must be refused with one error and no traceback; return the error."""
    capfd.readouterr()
    assert run() not in (0, None)
    error = capfd.readouterr().err
    assert error.count("electra-ds: error:") == 1
    assert "Traceback" not in error
    return error.partition("electra-ds: error:")[2]


def contents(folder: Path) -> dict[str, str]:
    """Relative path: SHA-256 of every file below a folder."""
    # The report tells times, which are of one run.
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "report.html")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def blocks(folder: Path, split: str) -> list[Block]:
    """All blocks of a split, in the order of the manifest."""
    found = []
    for shard in read_manifest(folder).splits[split]:
        with open(folder / f"{shard.name}.tar", "rb") as file:
            records = read_index(folder / f"{shard.name}.idx").records
            found += [decode_block(read_block_bytes(file.fileno(), record, shard.name)) for record in records]
    return found


def texts_of(folder: Path, split: str) -> list[str]:
    """Documents of a split, decoded, in the order in which they stand; pieces of one cut document are joined."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    documents: list[list[int]] = []
    for block in blocks(folder, split):
        pieces = np.split(block.tokens, block.documents[1:])
        for number, piece in enumerate(pieces):
            if number == 0 and block.metadata["continues"]:
                documents[-1] += piece.tolist()
            else:
                documents.append(piece.tolist())
    return [tokenizer.decode(tokens) for tokens in documents]


def write_json_lines(path: Path, rows: Iterable[object]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


SMALL_PIECES = 20_000
"""Bytes of a piece: a corpus of a test has many."""


@pytest.fixture(scope="package", autouse=True)
def small_pieces() -> Iterator[None]:
    """Let prep in this process cut small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_prep.plan, "PIECE_BYTES", SMALL_PIECES)
        yield


@pytest.fixture(scope="package")
def inputs(corpus, tmp_path_factory) -> Path:
    """Real text, other scripts, empty documents and a lone surrogate, as JSON lines."""
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    rows: list[dict[str, str]] = [{"text": text, "source": f"s{n % 3}", "lang": "en"} for n, text in enumerate(texts)]
    rows += [{"text": text} for text in POLYGLOT]
    rows += [{"text": ""}, {"text": " \n "}, {"text": "\u200b\x01"}, {"text": "lone \ud800 surrogate, and more"}]
    path = tmp_path_factory.mktemp("inputs") / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="package")
def undisturbed(inputs, tmp_path_factory) -> Path:
    """What one process makes in one go."""
    output = tmp_path_factory.mktemp("undisturbed") / "set"
    assert prep(inputs, output) == 0
    return output
