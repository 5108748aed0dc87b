"""Models by name: one family a file in `families`, torchvision's classification models, and your own."""
