"""Files of records, progress bars and tables for the terminal."""
