"""Whether the task demands what the pictures are expected to show, and whether they show it."""
