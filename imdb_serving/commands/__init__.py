"""What the command line's larger commands do; the only place where a pipeline meets a transport."""
