"""Where runs are kept: files that are whole or absent, and one writer at a time."""
