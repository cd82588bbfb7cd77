"""Readers of the official files of benchmarks, a function for each benchmark."""
