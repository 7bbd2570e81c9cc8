"""From what a step computes to the source of a kernel, for every target."""
