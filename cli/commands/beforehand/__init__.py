"""The commands that answer before there is a run: what keys mean, what it costs, how fast it is, what is here."""
