"""Medweave: medical images, their text and the knowledge of many models, woven into one image-text model."""
