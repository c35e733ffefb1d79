"""Launchers: each parses its flags, calls the library, and says where the results are."""
