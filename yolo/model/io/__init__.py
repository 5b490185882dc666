"""Weights in and out: safetensors, ONNX, TorchScript, the public YOLOv5's checkpoints."""
