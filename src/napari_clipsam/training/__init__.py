"""Prompt simulation, losses and metrics for fitting adapters and small networks."""
