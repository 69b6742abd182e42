"""Who computes which chunk: the scheduler, the worker pool and what they measure by."""
