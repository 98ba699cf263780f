"""Pretrain vision transformers by masked and autoregressive image modelling."""

__version__ = "0.1.0"
