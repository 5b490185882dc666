"""What communication costs by protocol, bandwidth, message size, mode, amount of data and model size, measured."""
