"""Where people look at runs; the only home of mlflow. Nothing here is on training's path: the journal comes first."""
