"""Scorers of tasks: they join the metrics of :mod:`hdvl.evaluation.metrics` with samples and answers."""
