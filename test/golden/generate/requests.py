"""Whole requests through FluxPipeline: the picture, the last latents and the prompt embeddings."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxPipeline

from .networks import difference
from .store import TensorFile, write_picture

CAT = "a photo of a red cat"
CASTLE = "A large wooden house under the moon, oil painting, don't blur, caf\u00e9 \u732b 42"
LONG = "a large red circle in the top left corner on a yellow background, " * 12


@dataclass(frozen=True)
class Request:
    """FluxPipeline's arguments under its own names; `seed` goes to manual_seed."""

    name: str
    arguments: dict


def _request(name: str, **arguments) -> Request:
    common = dict(
        prompt=CAT,
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=3.5,
        seed=42,
        max_sequence_length=16,
    )
    return Request(name, common | arguments)


PLAIN = [
    _request("square"),
    _request("wide", prompt=CASTLE, height=48, width=112, seed=7, max_sequence_length=64),
    _request("tall, one step", height=96, width=32, num_inference_steps=1, seed=1),
    _request("nine steps", num_inference_steps=9, height=64, width=48, seed=3),
    _request("guidance 0", guidance_scale=0.0),
    _request("guidance 1", guidance_scale=1.0),
    _request("guidance 7", guidance_scale=7.0),
    _request("true guidance, empty negative", true_cfg_scale=3.0, negative_prompt=""),
    _request(
        "true guidance, negative text",
        true_cfg_scale=2.5,
        negative_prompt="ugly, blurry dog",
        prompt=CASTLE,
        max_sequence_length=32,
    ),
    _request(
        "true guidance, both negatives",
        true_cfg_scale=4.0,
        negative_prompt="ugly dog",
        negative_prompt_2="blurry green sky",
        prompt_2="a blue star",
    ),
    _request("true guidance 1 is off", true_cfg_scale=1.0, negative_prompt="ugly dog"),
    _request("true guidance without a negative is off", true_cfg_scale=3.0),
    _request("prompt_2", prompt_2="a small blue star on a white background"),
    _request("prompt_2 empty", prompt_2=""),
    _request("three pictures", num_images_per_prompt=3, width=48, seed=2**32 + 5),
    _request(
        "three pictures, true guidance",
        num_images_per_prompt=3,
        true_cfg_scale=2.0,
        negative_prompt="dark",
        height=32,
        width=32,
    ),
    _request("seed beyond 32 bits", seed=2**63 + 1),
    _request("negative seed", seed=-1, num_inference_steps=2),
    _request("empty prompt", prompt=""),
    _request(
        "length 512",
        prompt=CASTLE,
        max_sequence_length=512,
        num_inference_steps=2,
        height=32,
        width=32,
    ),
    _request("long prompt cut", prompt=LONG, max_sequence_length=64),
    _request("long prompt cut short", prompt=LONG, max_sequence_length=16),
    _request("128 pixels", height=128, width=128, num_inference_steps=3, seed=99),
    _request("smallest picture", height=16, width=16, num_inference_steps=2),
]
# The VAE of two levels shrinks by 2 only: sizes are multiples of 4.
ODD = [
    _request("square", height=32, width=32),
    _request(
        "multiples of four", height=20, width=36, seed=8, prompt=CASTLE, max_sequence_length=64
    ),
    _request("two pictures", height=16, width=24, num_images_per_prompt=2, num_inference_steps=5),
    _request(
        "true guidance",
        height=24,
        width=24,
        true_cfg_scale=3.0,
        negative_prompt="",
        prompt="  blank\u3000\u00a0runs \uff21 ",
    ),
]
# A VAE of one level keeps the size; sizes are multiples of 2.
SAVED = [
    _request("square", height=16, width=16),
    _request(
        "multiples of two", height=10, width=22, seed=8, prompt=CASTLE, max_sequence_length=64
    ),
    _request(
        "three pictures, true guidance",
        height=8,
        width=12,
        num_images_per_prompt=3,
        num_inference_steps=5,
        true_cfg_scale=2.0,
        negative_prompt="dog",
    ),
    # 48 latents an image, drawn as one block of 144.
    _request("odd noise", height=2, width=6, num_images_per_prompt=3, num_inference_steps=2),
    _request("one block of noise", height=2, width=2, num_inference_steps=2),
]
WITHOUT_GUIDANCE = [
    request for request in PLAIN if request.name not in ("guidance 1", "guidance 7")
]
REQUESTS = {
    "dev-like": PLAIN,
    "schnell-like": WITHOUT_GUIDANCE,
    "odd-like": ODD,
    "saved-like": SAVED,
}


def request_cases(name: str, pipeline: FluxPipeline) -> list[dict]:
    file = TensorFile(f"requests/{name}.safetensors")
    wide = _widened(pipeline)
    cases = [_case(name, request, pipeline, wide, file) for request in REQUESTS.get(name, [])]
    file.write()
    return cases


def run(pipeline: FluxPipeline, arguments: dict, **more) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Final packed latents, pixels (images, height, width, 3) in 0..1 and the text embeddings."""
    arguments = dict(arguments)
    generator = torch.Generator("cpu").manual_seed(arguments.pop("seed"))
    seen: dict[str, torch.Tensor] = {}

    def last(_pipeline, _step, _timestep, tensors):
        seen.update(tensors)
        return {}

    encode = pipeline.encode_prompt
    texts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(*positional, **named):
        result = encode(*positional, **named)
        texts.append(result[:2])
        return result

    pipeline.encode_prompt = watched
    try:
        pixels = pipeline(
            **arguments, **more, generator=generator, output_type="pt", callback_on_step_end=last
        ).images
    finally:
        del pipeline.encode_prompt
    embeddings = dict(prompt_embeds=texts[0][0][:1], pooled_prompt_embeds=texts[0][1][:1])
    if len(texts) > 1:
        embeddings |= dict(
            negative_prompt_embeds=texts[1][0][:1], negative_pooled_prompt_embeds=texts[1][1][:1]
        )
    return seen["latents"], pixels, embeddings


def first_latents(pipeline: FluxPipeline, arguments: dict) -> torch.Tensor:
    """The packed noise, as the pipeline draws it."""
    generator = torch.Generator("cpu").manual_seed(arguments["seed"])
    return pipeline.prepare_latents(
        arguments.get("num_images_per_prompt", 1),
        pipeline.transformer.config.in_channels // 4,
        arguments["height"],
        arguments["width"],
        torch.float32,
        "cpu",
        generator,
    )[0]


def _widened(pipeline: FluxPipeline) -> FluxPipeline:
    parts = {
        name: copy.deepcopy(part).double() if isinstance(part, torch.nn.Module) else part
        for name, part in pipeline.components.items()
    }
    wide = FluxPipeline(**parts)
    wide.set_progress_bar_config(disable=True)
    return wide


def _case(name: str, request: Request, pipeline, wide, file: TensorFile) -> dict:
    latents, pixels, embeddings = run(pipeline, request.arguments)
    noise = first_latents(pipeline, request.arguments)
    exact, exact_pixels, _ = run(wide, request.arguments, latents=noise.double())
    pictures = pipeline.image_processor.numpy_to_pil(pixels.permute(0, 2, 3, 1).float().numpy())
    slug = request.name.replace(",", "").replace(" ", "-").replace("_", "-")
    paths = [
        write_picture(f"requests/{name}/{slug}{f'-{i}' if len(pictures) > 1 else ''}.png", picture)
        for i, picture in enumerate(pictures)
    ]
    outputs = dict(latents=latents)
    if request.arguments["max_sequence_length"] <= 64:
        outputs |= embeddings
    arguments = {k: str(v) if k == "seed" else v for k, v in request.arguments.items()}
    levels = (pixels * 255).round() - (exact_pixels * 255).round()
    return dict(
        checkpoint=name,
        name=request.name,
        arguments=arguments,
        file=file.path,
        outputs={key: file.add(f"{request.name}/{key}", value) for key, value in outputs.items()},
        pictures=paths,
        rounding=dict(
            latents=difference(latents, exact),
            pixels=difference(pixels, exact_pixels),
            levels=int(levels.abs().max()),
            levelsDiffering=int(np.count_nonzero(levels.numpy())),
        ),
    )
