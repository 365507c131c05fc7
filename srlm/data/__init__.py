"""Human seed data: readers for common dataset formats, splits, balancing of EFT examples, and the built-in dataset."""
