"""What is run: grids, ladders, sweeps, and our servers beside others. Draws nothing."""
