"""The table of generative methods: flow, flow_map, ddpm, spade.

To add a method, write a module with a `Method` and add its name here, or from outside the package:
`motfm_jax.methods.METHODS["mine"] = Method(...)`.
"""

from motfm_jax.methods import adversarial, diffusion, flow, flow_map
from motfm_jax.methods.method import Method as Method

METHODS: dict[str, Method] = {
    "flow": flow.METHOD,
    "flow_map": flow_map.METHOD,
    "ddpm": diffusion.METHOD,
    "spade": adversarial.METHOD,
}
