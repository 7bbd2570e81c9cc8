"""Training: data and its augmentation, read in the background. What a step computes is compiled."""
