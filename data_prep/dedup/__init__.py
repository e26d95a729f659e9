"""Deduplication: signatures of one document at a time, and what the signatures of all documents decide together."""
