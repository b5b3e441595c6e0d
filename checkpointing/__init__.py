"""Checkpoints: what they hold, how they are written, and how a run goes on from one exactly."""
