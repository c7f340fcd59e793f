"""Adapted models for other programs: one word, its base and its adapter as one network."""
