"""Trained models for other programs: timm, transformers, official code, StableHLO."""
