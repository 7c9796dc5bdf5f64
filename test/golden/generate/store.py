"""Where results go: safetensors files of float32 tensors, PNG pictures, and JSON."""

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

DATA = Path(__file__).resolve().parent.parent / "data"


class TensorFile:
    """Collects tensors under names and writes them as one file."""

    def __init__(self, path: str):
        self.path = path
        self.tensors: dict[str, torch.Tensor] = {}

    def add(self, name: str, tensor: torch.Tensor) -> str:
        if name in self.tensors:
            raise ValueError(f"{self.path}: {name} is stored twice")
        kind = torch.float32 if tensor.is_floating_point() else torch.int32
        self.tensors[name] = tensor.detach().to(kind).contiguous().clone()
        return name

    def write(self) -> None:
        target = DATA / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(sorted(self.tensors.items())), target)
        target.chmod(0o644)


def write_picture(path: str, picture: Image.Image) -> str:
    target = DATA / path
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, optimize=True)
    return path


def write_json(path: str, value: object) -> None:
    target = DATA / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_layout(value) + "\n", encoding="utf-8")


def float_list(values) -> list[float]:
    return [float(value) for value in values]


def _layout(value: object, depth: int = 0) -> str:
    """JSON with one record a line below the second level, so that differences can be read."""
    compact = json.dumps(value, ensure_ascii=True, allow_nan=False)
    if depth >= 4 or len(compact) <= 100 or not isinstance(value, (dict, list)):
        return compact
    pad = " " * (depth + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + _layout(v, depth + 1) for v in value) + "\n" + pad[1:] + "]"
    rows = (f"{pad}{json.dumps(k)}: {_layout(v, depth + 1)}" for k, v in value.items())
    return "{\n" + ",\n".join(rows) + "\n" + pad[1:] + "}"
