"""Lightning callbacks: progress, checkpoints, first batch, answers, plots, and faulty batches."""
