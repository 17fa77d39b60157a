"""Encoder x benchmark -> results with intervals."""
