"""`python -m anysize` and `torchrun -m anysize`."""

from anysize.cli import main

main()
