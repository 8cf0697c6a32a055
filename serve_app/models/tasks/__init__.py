"""Turn a model's raw output into results, with one module for each task."""
