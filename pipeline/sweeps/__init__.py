"""Sweeps: child runs with other values of some settings under one parent run, and the best by validation."""
