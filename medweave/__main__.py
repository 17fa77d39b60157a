"""`python -m medweave` is the command line."""

from medweave.cli import main

main()
