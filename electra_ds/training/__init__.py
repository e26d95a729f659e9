"""The training loop around one DeepSpeed engine: schedule, checkpoints, preemption, metrics."""
