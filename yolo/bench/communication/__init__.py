"""Every strategy on emulated clusters, timed and counted."""
