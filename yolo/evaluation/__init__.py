"""How good a network is: its detections against the truth, in COCO's figures; and its detections in any image."""
