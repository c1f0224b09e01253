"""Requests in, answers out: listeners, queue, server threads, workers, supervisor. Knows no client and no model."""
