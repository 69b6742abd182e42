"""Ray: runs the engine's work on processes and machines. No other package of training imports ray."""
