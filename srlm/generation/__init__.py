"""Generation of new prompts and of candidates."""
