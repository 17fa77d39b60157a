"""A corpus seen by other models: their rows of its images and texts, stored once, beside the corpus."""
