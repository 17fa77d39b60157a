"""Two-tower models and encoders: built, saved, loaded. Knows nothing of corpora."""
