"""The command line: one file a command; frameworks are imported inside the functions, so that `--help` is quick."""
