"""Run a loaded model with a fair queue, a dynamic batcher and engine threads, and roll out another model."""
