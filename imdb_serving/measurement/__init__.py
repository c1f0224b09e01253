"""One cell, measured: its parameters, what is started for it, the one runner, and the record."""
