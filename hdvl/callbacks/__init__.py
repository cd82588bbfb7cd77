"""What a run shows of itself: its first batch, answers, plots, totals, and batches that broke it."""
