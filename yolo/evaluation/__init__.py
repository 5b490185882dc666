"""Evaluate a network's detections against the truth, in COCO's figures; detect in any image."""
