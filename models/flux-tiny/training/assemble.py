"""Writes the diffusers folder from what the stages left in the work folder."""
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

import text_encoders
import tokenizer_files
import transformer
import vae

COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae",
              "scheduler")
FOLDER_BYTES_MAX = 20_000_000


def new_scheduler():
    """FLUX.1-dev's schedule."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096)


def averaged_weights(work, checkpoint):
    """The weights of a finished stage (flow.pt, distill.pt) or of one in training (*.state.pt)."""
    stored = torch.load(f"{work}/{checkpoint}", weights_only=False)
    return stored["weights"] if "weights" in stored else stored["average"]


def _name_as_flux1_does(work, out):
    """Undoes what transformers 5 writes differently from the published FLUX.1 folders.

    CLIP's tokenizer as vocab.json and merges.txt instead of tokenizer.json, CLIP's tensors under
    "text_model.", and the T5 tokenizer's class, which transformers 4 would take for SentencePiece.
    """
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(os.path.join(out, name))
        shutil.copytree(os.path.join(work, name), os.path.join(out, name))
    clip_file, prefix = os.path.join(out, "text_encoder/model.safetensors"), "text_model."
    named = {prefix + name.removeprefix(prefix): tensor
             for name, tensor in load_file(clip_file).items()}
    save_file(named, clip_file, metadata={"format": "pt"})
    index_file = os.path.join(out, "model_index.json")
    with open(index_file, encoding="utf-8") as file:
        index = json.load(file)
    index["tokenizer_2"] = ["transformers", "T5TokenizerFast"]
    with open(index_file, "w", encoding="utf-8") as file:
        json.dump(index, file, indent=2)
        file.write("\n")


def write_folder(work, out, checkpoint):
    model = transformer.new_transformer()
    model.load_state_dict(averaged_weights(work, checkpoint))
    clip_tokenizer, t5_tokenizer = tokenizer_files.load(work)
    clip, t5 = text_encoders.load_encoders(work)
    pipeline = FluxPipeline(new_scheduler(), vae.load(work), clip, clip_tokenizer, t5, t5_tokenizer,
                            model)
    for name in COMPONENTS:
        shutil.rmtree(os.path.join(out, name), ignore_errors=True)
    pipeline.save_pretrained(out)
    _name_as_flux1_does(work, out)
    size = sum(os.path.getsize(os.path.join(folder, file)) for name in COMPONENTS
               for folder, _, files in os.walk(os.path.join(out, name)) for file in files)
    print(f"{out}: {size / 1e6:.2f} MB", flush=True)
    assert size <= FOLDER_BYTES_MAX, f"the folder has {size} bytes, at most {FOLDER_BYTES_MAX}"
