"""Writes what two reference implementations of DDPM and DDIM compute to this folder.

    python tests/golden/diffusion/make_diffusion.py

in an environment with torch 2.13.0 (CPU), monai 1.6.1, monai-generative 0.2.3 and diffusers 0.42.1;
the versions are written into each file. One file is one reference:

monai.npz: the linear schedule; DDIM, and DDPM, without clipping.
diffusers.npz: both schedules; DDIM with clipping, where the noise that a step keeps is
the predicted one (the default of both references); both spacings of levels.
"""

from importlib.metadata import version
from pathlib import Path

import diffusers
import monai.config
import numpy as np
import torch
from monai.utils.enums import IgniteInfo

monai.config.IgniteInfo = IgniteInfo  # where monai-generative 0.2.3 looks for it
from generative.networks.schedulers import DDIMScheduler, DDPMScheduler  # noqa: E402

LEVELS = (0, 1, 250, 998, 999)  # of the noised images
STEPS = 10
VISITED = (0, 4, 9)  # steps of the ten that are recorded one by one
ETAS = (0.0, 0.5, 1.0)
DDPM_LEVELS = (999, 500, 1, 0)


def estimated_noise(x, level):
    """A network's stand-in: not linear, and never quite the noise.

    tests/methods/test_diffusion_golden.py has the same.
    """
    return x * (0.9 + level / 10000) + x / (5 + x * x)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noised(scheduler, x0, x1):
    return torch.stack([scheduler.add_noise(x1, x0, torch.full((len(x1),), n)) for n in LEVELS])


def one_step(take, scheduler, x, level, seed, eta):
    """A step and the fresh noise that the scheduler draws in it."""
    torch.manual_seed(seed)
    step = take(scheduler, x, level, eta)
    return step, draw(seed, *x.shape)


def monai_step(scheduler, x, level, eta):
    return scheduler.step(estimated_noise(x, level), level, x, eta=eta)[0]


def ddpm_step(scheduler, x, level, eta):
    return scheduler.step(estimated_noise(x, level), level, x)[0]


def diffusers_step(scheduler, x, level, eta):
    return scheduler.step(estimated_noise(x, level), level, x, eta=eta, return_dict=False)[0]


def trajectory(take, scheduler, x0):
    scheduler.set_timesteps(STEPS)
    states = [x0]
    for level in scheduler.timesteps.tolist():
        states.append(take(scheduler, states[-1], level, 0.0))
    return torch.stack(states)


def single_steps(take, scheduler, x0):
    """[visited, eta, *x0.shape]: the states after one step from x0, and the noise added."""
    scheduler.set_timesteps(STEPS)
    levels = scheduler.timesteps.tolist()
    pairs = [
        [one_step(take, scheduler, x0, levels[step], 10 * step + 1, eta) for eta in ETAS]
        for step in VISITED
    ]
    return tuple(
        torch.stack([torch.stack([pair[n] for pair in row]) for row in pairs]) for n in range(2)
    )


def from_monai(x0, x1):
    ddim = DDIMScheduler(1000, clip_sample=False)
    arrays = {"alpha_bar": ddim.alphas_cumprod, "noised": noised(ddim, x0, x1)}
    arrays["trajectory"] = trajectory(monai_step, ddim, x0)
    arrays["steps"], arrays["fresh"] = single_steps(monai_step, ddim, x0)
    ddpm = DDPMScheduler(1000, clip_sample=False)
    pairs = [one_step(ddpm_step, ddpm, x0, level, level, 1.0) for level in DDPM_LEVELS]
    arrays["ddpm"], arrays["ddpm_fresh"] = (torch.stack(column) for column in zip(*pairs))
    return arrays


def from_diffusers(x0, x1):
    arrays = {}
    for schedule, name in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        for spacing in ("leading", "trailing"):
            ddim = diffusers.DDIMScheduler(
                1000,
                beta_start=1e-4,
                beta_end=0.02,
                beta_schedule=name,
                timestep_spacing=spacing,
                clip_sample=True,
            )
            case = f"{schedule}_{spacing}"
            arrays[f"{case}_trajectory"] = trajectory(diffusers_step, ddim, x0)
            arrays[f"{case}_levels"] = ddim.timesteps.to(torch.int32)
            arrays[f"{case}_steps"], arrays[f"{case}_fresh"] = single_steps(
                diffusers_step, ddim, x0
            )
        arrays[f"{schedule}_alpha_bar"] = ddim.alphas_cumprod
        arrays[f"{schedule}_noised"] = noised(ddim, x0, x1)
    return arrays


def main() -> None:
    x0, x1 = draw(0, 3, 4, 2, 1), draw(1, 3, 4, 2, 1).clamp(-1, 1)
    packages = ("torch", "monai", "monai-generative", "diffusers")
    versions = np.array([f"{name} {version(name)}" for name in packages])
    for name, arrays in (("monai", from_monai(x0, x1)), ("diffusers", from_diffusers(x0, x1))):
        arrays = {key: value.numpy() for key, value in (arrays | {"x0": x0, "x1": x1}).items()}
        np.savez_compressed(Path(__file__).parent / f"{name}.npz", versions=versions, **arrays)


if __name__ == "__main__":
    main()
