"""One-bit compression with error feedback."""
