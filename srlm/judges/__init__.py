"""Judges: prompts, parsing, pointwise, pairwise and likelihood judges, meta-judge."""
