"""Stages that generate new prompts, candidates, judgements, EFT examples and preference pairs."""
