"""Pictures of runs: pure functions from numbers to figures."""
