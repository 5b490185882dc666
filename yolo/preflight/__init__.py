"""The hosts of a cluster, looked at before a run is started on them. Never imports torch."""
