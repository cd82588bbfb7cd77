"""Metrics of benchmarks, one module for each, equal to their official scorers.

The modules import neither torch nor other packages of hdvl. Each has a function that scores one answer
and, if the official scorer aggregates, one that scores a whole set. Answers that an official scorer
replaces by a random choice are reported as unparsed; with ``official_random_seed=42`` the random choices
of that scorer are repeated. ``joining`` pairs predictions with questions and reports bad input.
"""
