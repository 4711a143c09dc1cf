"""Training: the start of a run, the loop, the run folder, signals, checks before and after."""
