"""What the figures mean: which cells are valid, which target is better, what limits a level, what to do."""
