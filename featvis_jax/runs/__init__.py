"""Whole runs: what a notebook calls and a launcher starts, from options to results."""
