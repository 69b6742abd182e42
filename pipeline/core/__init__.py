"""The contract: what a task, a source and an algorithm are. torch and numpy only; it knows no engine, no Ray."""
