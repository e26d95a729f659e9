"""Benchmarks that others can repeat: both sides in one run, interleaved, medians with their spread, one report each."""
