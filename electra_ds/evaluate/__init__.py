"""What a pretrained or fine-tuned model can do, measured: held-out text, zero-shot, bias, robustness."""
