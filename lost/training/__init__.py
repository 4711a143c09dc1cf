"""A run: how it starts, the loop, its folder, signals, checks before and after."""
