"""The record: cells, rows, raw samples, the machine, kept so that a crash loses nothing. Knows no server."""
