"""What a run remembers of its shard set: enough for a model card, small, and without the machine's paths."""

from __future__ import annotations

from typing import Any

from electra_ds.data.format import Manifest

SUMMARY_NAME = "data.json"
"""In the run folder."""


def data_summary(manifest: Manifest) -> dict[str, Any]:
    """Documents and tokens by split, corpus, language and source, licences where the preparation was told them.

    Returns:
        JSON-compatible; ``licenses`` has a corpus only if its licence is known.
    """
    statistics, config = manifest.statistics, manifest.config
    named = config.get("corpora") or {}
    licenses = {name: corpus.get("license") for name, corpus in named.items() if isinstance(corpus, dict)}
    licenses = licenses or dict.fromkeys(statistics.get("corpora") or {}, config.get("license"))
    corpora = {
        name: {
            "documents": entry.get("documents", 0),
            "tokens": entry.get("tokens", 0),
            "bytes": entry.get("bytes", 0),
            "languages": {code: counts.get("tokens", 0) for code, counts in entry.get("languages", {}).items()},
        }
        for name, entry in (statistics.get("corpora") or {}).items()
    }
    sources = {name: entry.get("tokens", 0) for name, entry in (statistics.get("sources") or {}).items()}
    return {
        "fingerprint": manifest.fingerprint,
        "tokenizer": {"type": manifest.tokenizer.type, "vocab_size": manifest.tokenizer.vocab_size},
        "splits": {
            split: {count: manifest.total(split, count) for count in ("documents", "tokens")}
            for split in manifest.splits
        },
        "corpora": corpora,
        "sources": sources,
        "licenses": {name: license_ for name, license_ in licenses.items() if license_},
        "weights": manifest.weights,
    }
