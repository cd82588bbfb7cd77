"""Training: what moves, how fast, and what is written down about it."""
