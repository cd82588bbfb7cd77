"""``python -m hdvl`` is ``hdvl``."""

from hdvl.cli import main

main()
