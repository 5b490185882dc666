"""What a recipe will cost on a cluster, and which strategy costs least; answers without torch and without a GPU."""
