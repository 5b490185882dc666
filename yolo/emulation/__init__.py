"""A cluster on one machine: hosts as network namespaces, joined by links of a given bandwidth."""
