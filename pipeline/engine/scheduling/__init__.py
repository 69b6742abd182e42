"""Scheduling of chunks: the scheduler, the worker pool and their measurements."""
