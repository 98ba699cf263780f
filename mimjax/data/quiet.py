"""TensorFlow for the input pipeline: silent, on the CPU, imported on first use.

Every other module of this package takes `tf` from here, so that no message of its own
reaches the terminal and no accelerator memory is taken from JAX. What decoders print of
damaged files ("Corrupt JPEG data", and libtiff's under Pillow) they print past it.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator

from mimjax.data.faults import BadDataError

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

__all__ = ["graph", "reading", "tf"]


@contextlib.contextmanager
def reading(when: str = "") -> Iterator[None]:
    """Raises BadDataError, one line, where TensorFlow cannot read from files."""
    try:
        yield
    except tf.errors.OpError as error:
        # To be cancelled is no fault of the data, and a mistake in our own functions,
        # which TensorFlow passes on as text, is to be seen as one.
        own = "Traceback" in str(error.message)
        if own or isinstance(error, tf.errors.CancelledError):
            raise
        told = str(error.message).partition("\n")[0].rpartition("}} ")[2]
        raise BadDataError(f"{when}the data cannot be read: {told}") from error
