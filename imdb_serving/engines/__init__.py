"""Word ids in, probabilities out: one file an engine, and the registry that says what each needs."""
