"""Record files, and messages, progress bars and tables on the terminal."""
