"""Training: tuning, optimizer groups, schedules, stages, checkpoints and metrics."""
