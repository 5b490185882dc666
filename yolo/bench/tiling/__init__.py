"""Whole images against tiles and against shrunk images: what AP each reaches on objects that tiles cut."""
