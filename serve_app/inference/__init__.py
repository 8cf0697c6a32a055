"""Run a loaded model: fair queue, dynamic batcher, engine threads, and the roll-out of another model."""
