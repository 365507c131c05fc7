"""Which tokens SFT learns of which example, on the terminal and as a page (`srlm show-masking`)."""
