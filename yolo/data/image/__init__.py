"""Image files: reading, resizing, caching."""
