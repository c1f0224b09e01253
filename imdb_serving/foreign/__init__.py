"""A server of someone else: its command, its requests as templates, and its client. Knows no engine and no review."""
