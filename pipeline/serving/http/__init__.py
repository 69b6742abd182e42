"""Serves a learner to many users over HTTP: sessions, tokens, limits and metrics. Ray is not needed here."""
