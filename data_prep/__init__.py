"""Corpora to shards: sources, tokenizer, pipeline. Needs neither torch nor deepspeed."""
