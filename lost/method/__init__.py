"""The method itself, in numpy: decomposing a weight into a low-rank pair and whole channels, and back."""
