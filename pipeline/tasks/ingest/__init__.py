"""Converts published data to the class-indexed image file."""
