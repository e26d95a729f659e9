"""Checkpoints to stock Hugging Face models, and back."""
