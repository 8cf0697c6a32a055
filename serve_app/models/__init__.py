"""Load a model's file into an engine, and turn its raw output into results."""
