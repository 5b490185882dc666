"""The baseline for our speed: the same network, loss and schedule in a plain textbook trainer.

It uses fp32 and channels first; reads, fully decodes and resizes every image each time, pastes mosaic tiles on a canvas and
warps it; has torch's optimizer and an average of the weights tensor by tensor; fetches the loss at each step; suppresses
overlapping boxes in a loop and evaluates with pycocotools. Nothing in it is slowed down.
"""
