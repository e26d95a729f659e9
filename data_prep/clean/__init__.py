"""Cleaning: steps that change, drop or keep one document at a time, in one stated order."""
