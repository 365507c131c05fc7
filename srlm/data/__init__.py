"""Human seeds: readers for the formats people have, the split, EFT examples, and the built-in set."""
