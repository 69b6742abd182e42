"""The contract of tasks, sources and algorithms. It imports torch and numpy, but no engine and no Ray."""
