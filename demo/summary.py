"""What the demo made, in a few lines. Usage: summary.py RUN_FOLDER SECONDS."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path, seconds: int) -> None:
    """Print where things lie and what was measured, read from the files the commands left."""
    manifest = json.loads((folder / "shards" / "manifest.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (folder / "pretrain" / "metrics.jsonl").read_text("utf-8").splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    held_out = [line for line in lines if line["kind"] == "validation"][-1]
    resumes = [line["step"] for line in lines if line["kind"] == "event" and line["event"] == "resume"]
    results = json.loads((folder / "finetune" / "results.json").read_text("utf-8"))
    tokens = sum(shard["tokens"] for shard in manifest["splits"]["train"])
    rates = sorted(line["tokens_per_second"] for line in train)

    print(f"shards      {folder}/shards: {tokens:,} tokens for training")
    print(
        f"pretraining {folder}/pretrain: {train[-1]['step']:,} steps, {train[-1]['tokens_consumed']:,} tokens, "
        f"{rates[len(rates) // 2]:,.0f} tokens/s (median), stopped and resumed at step {', '.join(map(str, resumes))}"
    )
    print(
        f"            on held-out text: AUC {held_out['discriminator_auc']:.3f}, precision "
        f"{held_out['discriminator_precision']:.3f}, recall {held_out['discriminator_recall']:.3f} on replaced tokens"
    )
    print(f"model       {folder}/hf/discriminator: loads in stock transformers")
    rows = results["data"]["test"]["rows"]
    seeds, packages = results["settings"]["seeds"], len(results["labels"])
    print(
        f"fine-tuning {folder}/finetune: accuracy, {rows:,} test texts ({packages} packages), medians of {seeds} seeds"
    )
    for name, title in (("pretrained", "pretrained"), ("from_scratch", "the same network from scratch")):
        score = results["summary"][name]["test"]["accuracy"]
        print(f"            {score['median']:.1%} ({score['minimum']:.1%} to {score['maximum']:.1%}) {title}")
    print(f"            {results['baselines']['bag_of_words']['test']['accuracy']:.1%} bag of words (naive Bayes)")
    print(f"report      {folder}/report.html: open it in a browser")
    print(f"all of it in {seconds // 60} min {seconds % 60:02d} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
