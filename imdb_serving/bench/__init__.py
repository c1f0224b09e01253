"""What is measured: load, cells, sweeps, and the ledger they are written to."""
