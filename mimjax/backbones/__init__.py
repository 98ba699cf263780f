"""Encoders: image to tokens. They know nothing of masks, targets or losses."""
