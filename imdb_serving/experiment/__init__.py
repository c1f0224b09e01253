"""What is run: grids, sweeps, the overhead ladder, comparisons, searches. Draws nothing."""
