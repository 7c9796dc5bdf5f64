"""Writes the checkpoints as diffusers folders and reads them back as pipelines in float32."""

import json
import re
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from .geometry import Checkpoint
from .vocabulary import clip_size, t5_size, write_clip, write_t5
from .weights import fill


def write(checkpoint: Checkpoint, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    eos = write_clip(folder / "tokenizer", **checkpoint.clip_vocabulary)
    write_t5(folder / "tokenizer_2", **checkpoint.t5_vocabulary)
    parts = _parts(checkpoint, folder, eos)
    shard_bytes = {
        "transformer": checkpoint.shard_bytes,
        "text_encoder_2": checkpoint.t5_shard_bytes,
    }
    for index, (name, part) in enumerate(parts.items()):
        fill(part, checkpoint.seed + index, checkpoint.gains)
        size = shard_bytes.get(name) or "1GB"
        part.to(getattr(torch, checkpoint.dtype)).save_pretrained(
            folder / name, max_shard_size=size
        )
    FlowMatchEulerDiscreteScheduler(**checkpoint.scheduler).save_pretrained(folder / "scheduler")
    _write_index(folder)
    if checkpoint.resaved:
        load(folder).save_pretrained(folder.with_suffix(".saved"))
        shutil.rmtree(folder)
        folder.with_suffix(".saved").rename(folder)
    _age_files(checkpoint, folder)


def load(folder: Path) -> FluxPipeline:
    """The pipeline in float32, whatever the type its weights are stored in."""
    pipeline = FluxPipeline.from_pretrained(str(folder), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for part in (
        pipeline.transformer,
        pipeline.vae,
        pipeline.text_encoder,
        pipeline.text_encoder_2,
    ):
        part.eval()
        kinds = {parameter.dtype for parameter in part.parameters()}
        if kinds != {torch.float32}:
            raise ValueError(f"{folder.name}: {type(part).__name__} computes in {kinds}")
    return pipeline


def _parts(checkpoint: Checkpoint, folder: Path, eos: int) -> dict[str, torch.nn.Module]:
    clip = (
        dict(
            vocab_size=clip_size(folder / "tokenizer"),
            max_position_embeddings=77,
            bos_token_id=eos - 1,
            eos_token_id=eos,
            pad_token_id=1,
        )
        | checkpoint.clip
    )
    # The table may have more rows than the tokenizer has tokens, as T5's own (32128 for 32100).
    rows = t5_size(folder / "tokenizer_2") + 5
    t5 = dict(vocab_size=rows, is_encoder_decoder=False, use_cache=False) | checkpoint.t5
    return {
        "transformer": FluxTransformer2DModel(**checkpoint.transformer),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**clip)),
        "text_encoder_2": T5EncoderModel(T5Config(**t5)),
        "vae": AutoencoderKL(**checkpoint.vae),
    }


def _write_index(folder: Path) -> None:
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _age_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Rewrites what older or sparser checkpoints of the field write differently."""
    for part, keys in checkpoint.drop.items():
        path = folder / part / "config.json"
        config = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in config.items() if k not in keys}, indent=2) + "\n"
        )
    if checkpoint.clip_prefix:
        _prefix_clip(folder)
    if checkpoint.t5_both_embeddings:
        path = folder / "text_encoder_2/model.safetensors"
        tensors = load_file(path)
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
        save_file(tensors, path, metadata={"format": "pt"})
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    leaked = re.compile(r'^\s*"_name_or_path".*\n', re.MULTILINE)
    for path in [*folder.glob("*/config.json"), folder / "model_index.json"]:
        path.write_text(leaked.sub("", path.read_text()))


def _prefix_clip(folder: Path) -> None:
    """transformers 4: `text_model.` before every name, and the position ids as a stored tensor."""
    for path in sorted((folder / "text_encoder").glob("*.safetensors")):
        tensors = {f"text_model.{name}": value for name, value in load_file(path).items()}
        if "text_model.embeddings.position_embedding.weight" in tensors:
            tensors["text_model.embeddings.position_ids"] = (
                torch.arange(77).expand(1, -1).contiguous()
            )
        save_file(tensors, path, metadata={"format": "pt"})
    path = folder / "text_encoder/model.safetensors.index.json"
    if path.exists():
        index = json.loads(path.read_text())
        index["weight_map"] = {f"text_model.{k}": v for k, v in index["weight_map"].items()}
        position = index["weight_map"]["text_model.embeddings.position_embedding.weight"]
        index["weight_map"]["text_model.embeddings.position_ids"] = position
        path.write_text(json.dumps(index, indent=2) + "\n")
