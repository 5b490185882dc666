"""Image files: finding, reading, resizing, caching. Imports nothing, so that a host without packages can count images."""

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".webp"),
        *(".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pnm"),
    }
)
"""File name suffixes of the images that are read, in lower case."""

UNREAD_SUFFIXES = frozenset(
    {
        *(".gif", ".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".pfm", ".exr", ".hdr"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm", ".nii", ".npy"),
    }
)
"""Suffixes of images that are not read: reported, so that nobody believes that they were trained on."""
