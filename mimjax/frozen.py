"""Another run's whole model inside this one: the teacher or tokenizer of an objective.

An objective that needs one has a field of type `Model`; in a config it is the workdir
of the other run, whose config.json says what the model is. Its parameters live in the
state's collection "frozen", so they are cut, saved and restored with it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The collection of variables.
COLLECTION = "frozen"


@dataclasses.dataclass(frozen=True)
class Model:
    """The objective of another run, and the constants its images are normalised by."""

    objective: Any
    mean: Any
    std: Any
    workdir: str = ""

    def normalised(self, pixels: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Pixels from 0 to 1 as the model was given them."""
        return (pixels - np.asarray(self.mean)) / np.asarray(self.std)

    def zeros(self) -> dict[str, Any]:
        """Its variables, all zero."""
        encoder = self.objective.encoder
        image = jnp.zeros((1, *encoder.image_size, encoder.channels))
        batch = {"image": image, "pixels": image, "label": jnp.zeros(1, jnp.int32)}
        rngs = {name: jax.random.key(0) for name in ("params", "mask", "drop")}
        shapes = jax.eval_shape(lambda: self.objective.init(rngs, batch, train=False))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(shapes))

    def declare(self, module: Any, name: str) -> None:
        """Gives a Flax module that is being initialised its variables."""
        if module.is_initializing():
            module.variable(COLLECTION, name, self.zeros)

    def ask(self, module: Any, name: str, method: str, *args: Any) -> Any:
        """Calls a method of the model with the variables the Flax module holds."""
        variables = module.get_variable(COLLECTION, name)
        return self.objective.apply(variables, *args, method=method)
