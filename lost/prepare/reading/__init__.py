"""Documents of one file, whole or in parts, and of one data set of the hub."""
