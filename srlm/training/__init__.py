"""From data to the next model: SFT and DPO, thin over TRL."""
