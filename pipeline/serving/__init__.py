"""Serving: a trained theta that adapts and predicts."""
