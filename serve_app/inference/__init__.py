"""A loaded model at work: fair queue, dynamic batcher, engine threads, and the roll-out of another model."""
