"""The table of generative methods: flow, ddpm, spade.

To add a method, write a module with a `Method` and add its name here, or from outside the package:
`motfm_jax.methods.METHODS["mine"] = Method(...)`.
"""

from motfm_jax.methods import adversarial, diffusion, flow
from motfm_jax.methods.method import Method as Method

METHODS: dict[str, Method] = {
    "flow": flow.METHOD,
    "ddpm": diffusion.METHOD,
    "spade": adversarial.METHOD,
}
