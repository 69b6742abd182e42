"""MLflow. No other package imports it, and training never waits for it: the journal is written first."""
