"""What our speed is held against: the same network, loss and schedule in a plain trainer, as a textbook has it.

fp32 and channels first; every image read, decoded whole and resized each time, tiles pasted on a canvas and warped;
torch's optimizer and an average of the weights tensor by tensor; the loss fetched at each step; non-maximum suppression
as a loop over the boxes that stay, judged by pycocotools. Nothing in it is slowed down.
"""
