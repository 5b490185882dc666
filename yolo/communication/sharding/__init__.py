"""Several ranks compute one image: each holds a stripe of its columns, and of every feature map's."""
