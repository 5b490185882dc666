"""From a loaded recipe to one in which nothing is open."""
