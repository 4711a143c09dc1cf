"""Utilities: optional packages, facts about the machine, random numbers, threads, parsing, safe text."""
