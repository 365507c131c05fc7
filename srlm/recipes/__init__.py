"""The sequence of stages of each method."""
