"""Data set formats: COCO, Pascal VOC and YOLO."""
