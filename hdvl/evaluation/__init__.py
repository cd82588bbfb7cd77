"""Scores the answers of a model on benchmarks by the rules of the official scorers."""
