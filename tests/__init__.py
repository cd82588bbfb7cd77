"""The run-time type checker of the tests: beartype, with an int accepted where a float is asked for.

The options in pyproject.toml apply it, with jaxtyping's checks of shapes, to all of hdvl, so the slow tests
and ``pytest`` called by hand have every check. ``make unit`` applies it to the modules that annotate tensors
only, because wrapping every function of the others slows down their import in each worker, and each call.
"""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
