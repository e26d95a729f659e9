"""Shards to rows: the file format, the order of rows, and the loader."""
