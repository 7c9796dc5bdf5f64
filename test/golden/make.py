"""Makes test/golden/data: small checkpoints, and what diffusers computes from them.

    python -m pip install -r test/golden/requirements.txt
    python test/golden/make.py

The same versions give the same files, byte for byte (on the same kind of CPU).
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["ATEN_CPU_CAPABILITY"] = "avx2"  # before torch is loaded
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import shutil  # noqa: E402

import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from generate import checkpoints, networks, noise, prompts, requests, schedules, sensitivity  # noqa: E402
from generate.geometry import CHECKPOINTS  # noqa: E402
from generate.store import DATA, write_json  # noqa: E402

PACKAGES = ["torch", "diffusers", "transformers", "tokenizers", "safetensors", "numpy", "pillow"]
TOKEN_LENGTHS = [16, 77]


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shutil.rmtree(DATA, ignore_errors=True)

    manifest = dict(
        versions={name: version(name) for name in PACKAGES},
        cpuCapability=torch.backends.cpu.get_cpu_capability(),
        checkpoints=[],
        networks=[],
        requests=[],
        noise="noise.json",
        schedules="schedules.json",
        tokens="tokens.json",
    )
    tokens = []
    loaded = {}
    for checkpoint in CHECKPOINTS:
        folder = DATA / "checkpoints" / checkpoint.name
        print(f"{checkpoint.name}: {checkpoint.notes}", flush=True)
        checkpoints.write(checkpoint, folder)
        pipeline = checkpoints.load(folder)
        loaded[checkpoint.name] = pipeline
        manifest["checkpoints"].append(
            dict(
                name=checkpoint.name,
                folder=f"checkpoints/{checkpoint.name}",
                notes=checkpoint.notes,
            )
        )
        manifest["networks"] += networks.network_cases(checkpoint.name, pipeline)
        manifest["requests"] += requests.request_cases(checkpoint.name, pipeline)
        tokens += prompts.tokenize(checkpoint.name, folder, TOKEN_LENGTHS)
    write_json("tokens.json", tokens)
    write_json("noise.json", noise.draws())
    write_json("schedules.json", schedules.schedules())
    write_json("manifest.json", manifest)
    write_json("sensitivity.json", sensitivity.report(loaded))


if __name__ == "__main__":
    main()
