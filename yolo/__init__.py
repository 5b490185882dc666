"""Train YOLOv5 on clusters with DeepSpeed while talking as little as possible over the network."""
