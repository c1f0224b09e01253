"""Word ids in, probabilities out."""
