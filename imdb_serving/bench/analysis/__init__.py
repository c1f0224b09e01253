"""From raw samples and rows to numbers, and what they mean. Starts nothing, reads and writes no file."""
