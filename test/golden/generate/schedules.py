"""Sigmas, timesteps and mu for many sizes, step counts and scheduler configurations."""

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

from .store import float_list

DEV = dict(
    shift=3.0,
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=1.15,
    base_image_seq_len=256,
    max_image_seq_len=4096,
)
# beta sigmas need scipy, which FLUX pipelines do not: not covered.
CONFIGS = {
    "FLUX.1-dev": DEV,
    "FLUX.1-schnell": DEV | dict(shift=1.0, use_dynamic_shifting=False),
    "static 3": dict(shift=3.0, use_dynamic_shifting=False),
    "static 0.5": dict(shift=0.5),
    "defaults": dict(),
    "other dynamic": DEV
    | dict(base_shift=0.3, max_shift=1.6, base_image_seq_len=64, max_image_seq_len=1024),
    "linear": DEV | dict(time_shift_type="linear"),
    "terminal": DEV | dict(shift_terminal=0.02),
    "terminal, static": dict(shift=2.0, shift_terminal=0.1),
    "karras": DEV | dict(use_karras_sigmas=True),
    "karras, static": dict(shift=3.0, use_karras_sigmas=True),
    "exponential": DEV | dict(use_exponential_sigmas=True),
    "500 training steps": DEV | dict(num_train_timesteps=500),
    "inverted": DEV | dict(invert_sigmas=True),
}
STEPS = [1, 2, 3, 4, 7, 20, 28, 50]
SIZES = [(64, 64), (96, 64), (512, 512), (1024, 1024), (1360, 768), (2048, 2048)]
FEW_STEPS = [1, 4, 28]
FEW_SIZES = [(64, 96), (1024, 1024)]


def schedules() -> dict:
    cases: list[dict] = []
    for name, config in CONFIGS.items():
        whole = name in ("FLUX.1-dev",)
        steps_list = STEPS if whole else FEW_STEPS
        for steps in steps_list:
            if steps == 1 and config.get("shift_terminal"):
                continue  # diffusers divides 0 by 0
            for size in SIZES if whole else FEW_SIZES:
                cases.append(_case(name, config, steps, *size))
    cases.append(_case("FLUX.1-dev", DEV, 1000, 256, 256))
    return dict(configs=CONFIGS, cases=cases)


def _case(name: str, config: dict, steps: int, width: int, height: int) -> dict:
    """As FluxPipeline asks for them, with a VAE that shrinks by 8."""
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    tokens = (width // 16) * (height // 16)
    used = scheduler.config
    mu = calculate_shift(
        tokens,
        used.get("base_image_seq_len", 256),
        used.get("max_image_seq_len", 4096),
        used.get("base_shift", 0.5),
        used.get("max_shift", 1.15),
    )
    sigmas = np.linspace(1.0, 1 / steps, steps)
    timesteps, _ = retrieve_timesteps(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
    return dict(
        config=name,
        steps=steps,
        width=width,
        height=height,
        tokens=tokens,
        mu=float(mu),
        sigmas=float_list(scheduler.sigmas),
        timesteps=float_list(timesteps),
    )
