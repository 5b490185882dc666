"""Image files: reading, resizing, caching. Imports nothing, so that a host without packages can count images."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""File name suffixes of images, in lower case."""
