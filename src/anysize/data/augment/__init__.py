"""Images to input: the operations, for images alone and for images with masks, in training and in evaluation."""
