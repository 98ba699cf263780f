"""TensorFlow for the input pipeline: silent, on the CPU, imported on first use.

Every other module of this package takes `tf` from here, so that no message reaches
the terminal and no accelerator memory is taken from JAX.
"""

import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Without this oneDNN announces itself, and its kernels may round differently.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow as tf

# TensorFlow reserves every visible accelerator at its first operation.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

tf.get_logger().setLevel("ERROR")
# For functions handed to tf.data: ours are graphs as they stand, and rewriting their
# source only costs time and warns where the source is not at hand.
graph = tf.autograph.experimental.do_not_convert

__all__ = ["graph", "tf"]
