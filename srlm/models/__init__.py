"""Checkpoints, chat templates and chat encoding."""
