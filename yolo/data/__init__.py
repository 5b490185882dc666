"""Data sets read into one typed form, altered, sharded and loaded."""
