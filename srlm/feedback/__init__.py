"""M_t's feedback on itself: new prompts, candidates, judgements, preference pairs."""
