"""What each network makes of given inputs, and how much of the outcome is rounding.

Every case is computed twice, in float32 and with weights and inputs widened to float64 (RoPE, the
sinusoids and a few norms stay float32 inside diffusers). The difference says how exact the stored
float32 values are themselves: a tolerance below it would test luck.
"""

import copy
from dataclasses import dataclass

import torch
from diffusers import FluxPipeline

from .store import TensorFile

INTERMEDIATE = "dev-like"  # the checkpoint whose blocks are stored one by one


@dataclass
class Result:
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    rounding: dict[str, float]
    settings: dict


def network_cases(name: str, pipeline: FluxPipeline) -> list[dict]:
    file = TensorFile(f"networks/{name}.safetensors")
    cases = []
    for network, results in {
        "transformer": _transformer(name, pipeline.transformer),
        "text_encoder": _clip(pipeline),
        "text_encoder_2": _t5(pipeline),
        "vae.decoder": _decoder(pipeline.vae),
        "vae.encoder": _encoder(pipeline.vae),
    }.items():
        for title, result in results.items():
            cases.append(_record(name, network, title, result, file))
    file.write()
    return cases


def _record(name: str, network: str, title: str, result: Result, file: TensorFile) -> dict:
    prefix = f"{network}/{title}"
    return dict(
        checkpoint=name,
        network=network,
        name=title,
        settings=result.settings,
        file=file.path,
        inputs={key: file.add(f"{prefix}/in.{key}", value) for key, value in result.inputs.items()},
        outputs={
            key: dict(
                tensor=file.add(f"{prefix}/out.{key}", value),
                rounding=result.rounding[key],
                largest=float(value.abs().max()),
            )
            for key, value in result.outputs.items()
        },
    )


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left.double() - right.double()).abs().max())


def _twice(module: torch.nn.Module, run, inputs: dict[str, torch.Tensor], settings: dict) -> Result:
    """`run(module, inputs)` gives the named outputs; once in float32, once widened."""
    with torch.no_grad():
        outputs = run(module, inputs)
        wide = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        exact = run(copy.deepcopy(module).double(), wide)
    rounding = {key: difference(value, exact[key]) for key, value in outputs.items()}
    return Result(inputs, outputs, rounding, settings)


# --- transformer -------------------------------------------------------------------------------


def transformer_inputs(
    transformer,
    seed: int,
    rows: int,
    columns: int,
    text: int,
    timesteps: list[float],
    guidance: list[float],
) -> dict[str, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    config = transformer.config
    batch = len(timesteps)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    inputs = dict(
        hidden_states=draw(batch, rows * columns, config.in_channels),
        encoder_hidden_states=draw(batch, text, config.joint_attention_dim),
        pooled_projections=draw(batch, config.pooled_projection_dim),
        timestep=torch.tensor(timesteps),
        img_ids=grid_ids(rows, columns),
        txt_ids=torch.zeros(text, 3),
    )
    if config.guidance_embeds:
        inputs["guidance"] = torch.tensor(guidance)
    return inputs


def grid_ids(rows: int, columns: int, first: int = 0) -> torch.Tensor:
    ids = torch.zeros(rows, columns, 3)
    ids[..., 0] = first
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    return ids.reshape(rows * columns, 3)


def run_transformer(transformer, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"sample": transformer(**inputs, return_dict=False)[0]}


def _run_with_blocks(transformer, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(_module, _arguments, result):
            if isinstance(result, tuple) and name.startswith(("double", "single")):
                seen[f"{name}.txt"], seen[f"{name}.img"] = result
            elif isinstance(result, tuple):
                seen[f"{name}.cos"], seen[f"{name}.sin"] = result
            else:
                seen[name] = result

        return hook

    watched = {
        "x_embedder": transformer.x_embedder,
        "context_embedder": transformer.context_embedder,
    }
    watched |= {"temb": transformer.time_text_embed, "rope": transformer.pos_embed}
    watched |= {"norm_out": transformer.norm_out}
    watched |= {f"double.{i}": block for i, block in enumerate(transformer.transformer_blocks)}
    watched |= {
        f"single.{i}": block for i, block in enumerate(transformer.single_transformer_blocks)
    }
    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    outputs = run_transformer(transformer, inputs)
    for handle in handles:
        handle.remove()
    return seen | outputs


def _transformer(name: str, transformer) -> dict[str, Result]:
    def case(run, rows: int, columns: int, text: int, timesteps, guidance, seed: int) -> Result:
        inputs = transformer_inputs(transformer, seed, rows, columns, text, timesteps, guidance)
        settings = dict(rows=rows, columns=columns, textTokens=text)
        return _twice(transformer, run, inputs, settings)

    run = _run_with_blocks if name == INTERMEDIATE else run_transformer
    results = {
        "two rows, odd sizes": case(run, 3, 5, 7, [1.0, 0.3141592], [3.5, 1.0], 11),
        "one row, wide": case(run_transformer, 2, 11, 16, [0.7310586], [7.0], 12),
        "one row, tall": case(run_transformer, 9, 2, 33, [0.012345], [0.0], 13),
        "one image token": case(run_transformer, 1, 1, 1, [0.5], [30.0], 14),
        "three rows": case(run_transformer, 3, 3, 16, [0.9, 0.1, 0.0], [2.5, 4.0, 100.0], 15),
    }
    # Instruction editing appends the picture's tokens with 1 as their first position.
    inputs = transformer_inputs(transformer, 16, 3, 4, 5, [0.625], [2.5])
    inputs["img_ids"] = torch.cat([grid_ids(3, 2), grid_ids(3, 2, first=1)])
    results["appended tokens"] = _twice(
        transformer, run_transformer, inputs, dict(rows=3, columns=2, textTokens=5, appended=True)
    )
    return results


# --- text --------------------------------------------------------------------------------------


CLIP_PROMPTS = [
    "a photo of a red cat",
    "",
    "caf\u00e9, don't 123 \U0001f600 world",
    "large red circle " * 40,
]
T5_PROMPTS = ["a large red circle in the corner", "caf\u00e9 \u732b, we're 42"]


def run_clip(model, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = model(inputs["input_ids"], output_hidden_states=False)
    return dict(last_hidden_state=out.last_hidden_state, pooled=out.pooler_output)


def clip_ids(pipeline: FluxPipeline, prompts: list[str]) -> torch.Tensor:
    return pipeline.tokenizer(
        prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids


def t5_ids(pipeline: FluxPipeline, prompts: list[str], length: int) -> torch.Tensor:
    return pipeline.tokenizer_2(
        prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids


def _clip(pipeline: FluxPipeline) -> dict[str, Result]:
    ids = clip_ids(pipeline, CLIP_PROMPTS)
    settings = dict(prompts=CLIP_PROMPTS)
    return {"prompts": _twice(pipeline.text_encoder, run_clip, dict(input_ids=ids), settings)}


def run_t5(model, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(last_hidden_state=model(inputs["input_ids"], output_hidden_states=False)[0])


def _t5(pipeline: FluxPipeline) -> dict[str, Result]:
    results = {}
    for length in (16, 77, 150):  # 150: beyond max_distance of every checkpoint
        prompts = T5_PROMPTS if length < 150 else T5_PROMPTS[:1]
        ids = t5_ids(pipeline, prompts, length)
        settings = dict(prompts=prompts, maxSequenceLength=length)
        results[f"length {length}"] = _twice(
            pipeline.text_encoder_2, run_t5, dict(input_ids=ids), settings
        )
    return results


# --- autoencoder -------------------------------------------------------------------------------


def run_decoder(vae, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`latents` are the transformer's, unpacked; scaling and shift are undone first."""
    z = inputs["latents"] / vae.config.scaling_factor + vae.config.shift_factor
    return dict(sample=vae.decode(z, return_dict=False)[0])


def run_encoder(vae, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`mean` and `logvar` of the posterior (logvar clamped to -30..20), without scaling."""
    posterior = vae.encode(inputs["sample"]).latent_dist
    scaled = (posterior.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    return dict(mean=posterior.mean, logvar=posterior.logvar, latents=scaled)


def _decoder(vae) -> dict[str, Result]:
    results = {}
    for title, batch, height, width in [("wide", 1, 4, 7), ("odd", 2, 5, 3), ("one", 1, 1, 1)]:
        generator = torch.Generator("cpu").manual_seed(21)
        latents = torch.randn(batch, vae.config.latent_channels, height, width, generator=generator)
        results[title] = _twice(vae, run_decoder, dict(latents=latents), {})
    return results


def _encoder(vae) -> dict[str, Result]:
    results = {}
    for title, batch, height, width in [("wide", 1, 32, 48), ("tall", 2, 32, 16)]:
        generator = torch.Generator("cpu").manual_seed(22)
        sample = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
        results[title] = _twice(vae, run_encoder, dict(sample=sample), {})
    return results
