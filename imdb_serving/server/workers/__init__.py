"""The workers: threads, or processes of some threads, that each take a request and answer it. Knows no carrier."""
