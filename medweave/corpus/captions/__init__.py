"""Caption banks: (modality, anatomy, finding) -> many captions, and prompts kept apart from them."""
