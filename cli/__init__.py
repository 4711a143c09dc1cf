"""The command line: one file a command. Frameworks are imported inside functions, so that `--help` is fast."""
