"""From what was asked for to a run that trains: checks that write nothing (`ready`), a dry run, the start."""
