"""Pictures of a run: pure functions from arrays to figures. No other package draws."""
