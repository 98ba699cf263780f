"""Another run's model inside this one: the teacher or tokenizer of an objective.

An objective that needs one has a field of type `Model`; in a config it is the workdir
of the other run, whose config.json says what the model is. Its parameters live in the
state's collection "frozen", so they are cut, saved and restored with it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The collection of variables.
COLLECTION = "frozen"
# What such a model computes is traced in a scope of this name.
SCOPE = "another_run_s_model"


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

    def zeros(self, use: Callable[[Any, Array], Any]) -> dict[str, Any]:
        """The variables that `use(objective, image)` needs, all zero.

        Those of models that it learned from itself are left out.
        """
        encoder = self.objective.encoder
        image = jnp.zeros((1, *encoder.image_size, encoder.channels))
        rngs = {name: jax.random.key(0) for name in ("params", "mask", "drop")}
        init = functools.partial(self.objective.init, method=use)
        shapes = dict(jax.eval_shape(init, rngs, image))
        shapes.pop(COLLECTION, None)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def declare(self, module: Any, name: str, use: Callable[[Any, Array], Any]) -> None:
        """Gives a Flax module that is being initialised what `use` needs."""
        if module.is_initializing():
            module.variable(COLLECTION, name, self.zeros, use)

    def ask(self, module: Any, name: str, method: Any, *args: Any) -> Any:
        """Calls a method of the model, by name, or a function of it and `args`.

        The variables are those the Flax module holds under that name.
        """
        variables = module.get_variable(COLLECTION, name)
        with jax.named_scope(SCOPE):
            return self.objective.apply(variables, *args, method=method)
