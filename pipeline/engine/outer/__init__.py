"""The outer update: the reduction, the optimizer and the store that holds theta."""
