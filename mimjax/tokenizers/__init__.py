"""Encoders that turn an image into tokens of a finite vocabulary.

Each is an encoder like those of `mimjax/backbones` (the contract is there) and has
`num_codes`, the size of the vocabulary. It is trained by the objective of the same name
and then used, frozen, by objectives that predict tokens (`mimjax/frozen.py`).
"""
