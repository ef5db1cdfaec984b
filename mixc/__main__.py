"""`python -m mixc` is `mixc`."""

from mixc.cli.main import main

main()
