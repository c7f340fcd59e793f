"""Frozen networks: SAM split into trunk and head, CLIP with dense features, and their weights."""
