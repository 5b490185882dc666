"""Check the hosts of a cluster before a run is started on them. Never imports torch."""
