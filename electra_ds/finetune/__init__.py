"""Fine-tuning on stock transformers: one small class per task."""
