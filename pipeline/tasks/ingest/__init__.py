"""Turns data as people publish it into the class-indexed image file."""
