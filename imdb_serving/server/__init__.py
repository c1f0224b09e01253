"""Requests in, answers out: the supervisor, its queue and its connections. Knows no client and no model."""
