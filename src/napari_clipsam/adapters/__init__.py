"""The method: adapters inside SAM's encoder, conditioned by CLIP."""
