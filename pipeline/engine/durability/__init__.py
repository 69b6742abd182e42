"""What survives a crash: checkpoints, the metrics journal and the coordinator that writes both."""
