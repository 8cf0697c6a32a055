"""A model's file to a loaded engine, and its raw output to results."""
