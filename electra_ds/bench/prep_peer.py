"""What one would write with Hugging Face `datasets`: JSON lines to token ids on disk. Run as a script by `bench prep`.

``python -m electra_ds.bench.prep_peer CORPUS TOKENIZER OUTPUT WORKERS`` prints the number of tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main(corpus: str, tokenizer_folder: str, output: str, workers: int) -> int:
    """Tokenize every document of a JSON-lines file, in batches of a thousand, and save Arrow files; return tokens."""
    import datasets
    import pyarrow.compute as compute
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)

    def tokenize(batch: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer(
            batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )
        return {"ids": encoded["input_ids"]}

    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("uint16"))})
    stored = datasets.load_dataset("json", data_files=corpus, split="train", cache_dir=str(Path(output) / "cache"))
    stored = stored.map(
        tokenize,
        batched=True,
        num_proc=workers if workers > 1 else None,
        remove_columns=stored.column_names,
        features=features,
    )
    stored.save_to_disk(str(Path(output) / "arrow"))
    return int(compute.sum(compute.list_value_length(stored.data.column("ids"))).as_py())


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
