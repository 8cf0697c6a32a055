"""Load a model's file into an engine, and turn the engine's raw output into results."""
