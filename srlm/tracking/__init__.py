"""Trackers: log a run's metrics to W&B, TensorBoard or a JSONL file."""
