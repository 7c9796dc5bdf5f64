"""Proof that the goldens can catch mistakes.

First table: how much each output changes when one input does. Second table: what the mistakes that
implementers make cost, as a multiple of the tolerance the tests use. Both are asserted.
"""

from dataclasses import dataclass

import torch
from diffusers import FluxPipeline

from . import mutants, networks, requests
from .networks import difference

TOLERANCE = 1e-5  # of the largest value of an output: what the tests allow
LEAST_CHANGE = 0.05  # of an output's standard deviation, when one input changes
LEAST_MISTAKE = 5.0  # times the tolerance


@dataclass(frozen=True)
class Row:
    what: str
    checkpoint: str
    size: float
    least: float


def report(pipelines: dict[str, FluxPipeline]) -> dict:
    inputs = [row for name, pipe in pipelines.items() for row in _inputs(name, pipe)]
    inputs += [row for name in requests.REQUESTS for row in _arguments(name, pipelines[name])]
    mistakes = [row for name, pipe in pipelines.items() for row in _mistakes(name, pipe)]
    _print("relative change of the output when an input changes", inputs)
    _print("error of a mistake, in multiples of the tolerance", mistakes)
    # Each epsilon shows only in the checkpoint that was made for it: see `gains` in geometry.py.
    strongest = {r.what: max(o.size for o in mistakes if o.what == r.what) for r in mistakes}
    weak = [
        row
        for row in inputs + mistakes
        if not (strongest[row.what] if "epsilon" in row.what else row.size) >= row.least
    ]
    if weak:
        raise SystemExit("too weak to be caught:\n" + "\n".join(map(str, weak)))
    return dict(
        tolerance=TOLERANCE,
        inputs=[dict(what=r.what, checkpoint=r.checkpoint, change=r.size) for r in inputs],
        mistakes=[dict(what=r.what, checkpoint=r.checkpoint, tolerances=r.size) for r in mistakes],
    )


def _print(title: str, rows: list[Row]) -> None:
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    sizes = {(row.what, row.checkpoint): row.size for row in rows}
    print(f"\n{title}\n{'':44}" + "".join(f"{name:>14}" for name in names))
    for what in dict.fromkeys(row.what for row in rows):
        cells = (sizes.get((what, name)) for name in names)
        print(
            f"{what:44}" + "".join(f"{'-' if c is None else format(c, '.3g'):>14}" for c in cells)
        )


def _relative(changed: torch.Tensor, original: torch.Tensor) -> float:
    return float((changed - original).std() / original.std())


def _inputs(name: str, pipeline: FluxPipeline) -> list[Row]:
    transformer = pipeline.transformer
    inputs = networks.transformer_inputs(transformer, 31, 4, 6, 9, [0.7, 0.3], [3.5, 2.0])
    other = networks.transformer_inputs(transformer, 32, 4, 6, 9, [0.6, 0.4], [4.5, 1.5])
    with torch.no_grad():
        original = transformer(**inputs, return_dict=False)[0]
        rows = []
        for key in inputs:
            if key == "txt_ids":
                continue
            value = inputs[key].flip(0) if key == "img_ids" else other[key]
            changed = transformer(**(inputs | {key: value}), return_dict=False)[0]
            rows.append(
                Row(f"transformer: {key}", name, _relative(changed, original), LEAST_CHANGE)
            )
    return rows


def _arguments(name: str, pipeline: FluxPipeline) -> list[Row]:
    base = dict(
        prompt="a photo of a red cat",
        height=32,
        width=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        seed=1,
        max_sequence_length=16,
    )
    changes = {
        "prompt": dict(prompt="a photo of a blue cat"),
        "prompt_2 only": dict(prompt_2="large blue stars, dark night sky"),
        "one step more": dict(num_inference_steps=5),
        "more padding": dict(max_sequence_length=48),
        "seed": dict(seed=2),
        "negative prompt": dict(negative_prompt="dog", true_cfg_scale=2.0),
    }
    if pipeline.transformer.config.guidance_embeds:
        changes["guidance 3.5 to 4"] = dict(guidance_scale=4.0)
    latents, pixels, _ = requests.run(pipeline, base)
    rows = []
    for what, change in changes.items():
        changed, changed_pixels, _ = requests.run(pipeline, base | change)
        rows.append(
            Row(f"request, latents: {what}", name, _relative(changed, latents), LEAST_CHANGE)
        )
        levels = float((changed_pixels - pixels).abs().max() * 255)
        rows.append(Row(f"request, levels of 255: {what}", name, levels, 8))
    return rows


def _mistakes(name: str, pipeline: FluxPipeline) -> list[Row]:
    rows = []
    for network, (module, run, cases) in _cases(pipeline).items():
        for what, mutate in mutants.MUTANTS[network].items():
            sizes = [_mistake(module, run, inputs, mutate) for inputs in cases]
            known = [size for size in sizes if size is not None]
            if known:
                rows.append(Row(f"{network}: {what}", name, max(known), LEAST_MISTAKE))
    return rows


def _mistake(module, run, inputs, mutate) -> float | None:
    """How far off the mutated module is, in tolerances; None where the mistake cannot be made."""
    with torch.no_grad():
        right = run(module, inputs)
        mutated = mutate(module, dict(inputs))
        if mutated is None:
            return None
        wrong = run(*mutated)
    return max(
        difference(wrong[key], right[key]) / (TOLERANCE * float(right[key].abs().max()))
        for key in right
    )


def _cases(pipeline: FluxPipeline) -> dict:
    transformer = pipeline.transformer
    generator = torch.Generator("cpu").manual_seed(41)
    vae = pipeline.vae
    return {
        "transformer": (
            transformer,
            networks.run_transformer,
            [networks.transformer_inputs(transformer, 11, 3, 5, 7, [1.0, 0.3141592], [3.5, 1.0])],
        ),
        "text_encoder": (
            pipeline.text_encoder,
            networks.run_clip,
            [dict(input_ids=networks.clip_ids(pipeline, networks.CLIP_PROMPTS))],
        ),
        "text_encoder_2": (
            pipeline.text_encoder_2,
            networks.run_t5,
            [dict(input_ids=networks.t5_ids(pipeline, networks.T5_PROMPTS, 77))],
        ),
        "vae.decoder": (
            vae,
            networks.run_decoder,
            [dict(latents=torch.randn(1, vae.config.latent_channels, 5, 3, generator=generator))],
        ),
        "vae.encoder": (
            vae,
            networks.run_encoder,
            [dict(sample=torch.rand(1, 3, 32, 48, generator=generator) * 2 - 1)],
        ),
    }
