"""A tokenizer's library by itself, on one core, on lines that are in memory; the ids are thrown away.

Run by `bench prep`: ``python -m electra_ds.bench.prep_raw TOKENIZER CORPUS`` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

BATCH = 4096
"""Lines of a call: the encodings of a whole corpus would not fit in memory."""


Form = Literal["NFC", "NFKC", "NFD", "NFKD"]


def main(folder: str, corpus: str) -> dict[str, Any]:
    """Encode a corpus; only the encoding itself is timed.

    Args:
        folder: tokenizer that `electra-ds prep` made.
        corpus: JSON lines.

    Returns:
        ``seconds``, ``cpu_seconds``, ``tokens``.
    """
    encode, form = _open(Path(folder))
    with open(corpus, encoding="utf-8") as file:
        texts = (json.loads(line)["text"] for line in file)
        lines = [line for text in texts for line in text.split("\n")]
    if form:
        lines = [unicodedata.normalize(form, line) for line in lines]
    seconds = cpu_seconds = 0.0
    tokens = 0
    for begin in range(0, len(lines), BATCH):
        batch = lines[begin : begin + BATCH]
        cpu, begun = time.process_time(), time.perf_counter()
        encoded = encode(batch)
        seconds, cpu_seconds = seconds + time.perf_counter() - begun, cpu_seconds + time.process_time() - cpu
        tokens += sum(map(len, encoded))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens}


def _open(folder: Path) -> tuple[Callable[[list[str]], Sequence[Any]], Form | None]:
    """The library's fastest call, and the Unicode form that it is to be given."""
    model = folder / "tokenizer.model"
    if model.is_file():
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(model))
        form: Form = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["unicode_form"]
        return lambda lines: processor.encode(lines, num_threads=1), form
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda lines: tokenizer.encode_batch_fast(lines, add_special_tokens=False), None


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(json.dumps(main(sys.argv[1], sys.argv[2])))
