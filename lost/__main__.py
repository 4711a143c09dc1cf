"""`python -m lost`, for machines whose PATH doesn't hold the command."""

from lost.cli.main import main

main()
