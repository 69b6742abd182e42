"""The only home of ray in training: where the engine's work runs on processes and machines."""
