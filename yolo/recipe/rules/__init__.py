"""Rules that find settings that cannot work together."""
