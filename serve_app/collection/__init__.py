"""Keep images that are worth a look, with their answers, as a dataset for the training of the next model."""
