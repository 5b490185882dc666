"""Which files are images, by their names. Needs no package, so that a host that lacks some can count them."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""In lower case."""
