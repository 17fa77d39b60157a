"""Images and text in, a corpus out. Imports nothing of ours but the ground modules."""
