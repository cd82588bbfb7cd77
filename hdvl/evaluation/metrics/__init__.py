"""The metrics of the benchmarks, each equal to its official scorer, one in each module.

Nothing of hdvl is imported here, and no torch. Every module offers a function that scores one answer
and, where the official scorer aggregates, one that scores a whole set. Answers that an official
scorer replaces by a random draw are reported as unparsed; with ``official_random_seed=42`` the
draw of that scorer is repeated. ``joining`` pairs predictions with questions and names bad input.
"""
