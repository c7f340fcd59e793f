"""Planes and prompts in, masks out."""
