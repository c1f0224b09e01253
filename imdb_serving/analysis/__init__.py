"""Statistics: from raw samples and rows to numbers. Reads no file and starts nothing."""
