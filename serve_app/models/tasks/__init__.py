"""One file a task: how a model's raw output becomes results."""
