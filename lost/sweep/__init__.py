"""Sweeps: many runs of one configuration, over a grid and in search of a best value, one folder for all of them."""
