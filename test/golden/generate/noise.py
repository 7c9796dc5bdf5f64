"""Draws of torch's CPU generator: seeds beyond 32 bits, sizes around 16, draws in a row."""

import hashlib

import torch

SEEDS = [0, 1, 42, 5, 2**32 - 1, 2**32 + 5, 2**63 - 1, 2**63 + 1, 2**64 - 1, -1, -(2**31), -(2**63)]
SHAPES = [
    [1],
    [2],
    [15],
    [16],
    [17],
    [31],
    [32],
    [33],
    [100],
    [623],
    [624],
    [625],
    [1, 16, 8, 8],
    [1, 16, 13, 7],
]


def draws() -> list[dict]:
    cases = [_case([seed_shape[1]], seed_shape[0]) for seed_shape in _single()]
    cases.append(_case([[1, 16, 4, 6], [1, 16, 4, 6]], 42))  # two images, one after another
    cases.append(_case([[3], [5], [16], [2], [40]], 42))  # the short path caches a second value
    cases.append(_case([[17], [17], [1], [1], [32]], 2**32 + 5))
    cases.append(_case([[3, 16, 4, 6]], 7))  # num_images_per_prompt 3: one draw for the batch
    cases.append(_case([[3, 16, 3, 3]], 7))
    cases.append(_case([[1, 16, 128, 128]], 42))
    cases.append(_case([[1, 16, 64, 48]], 123456789012345))
    return cases


def _single() -> list[tuple[int, list[int]]]:
    pairs = [(42, shape) for shape in SHAPES]
    pairs += [(seed, [1, 16, 2, 2]) for seed in SEEDS]
    return pairs + [(seed, [7]) for seed in SEEDS]


def _case(shapes: list[list[int]], seed: int) -> dict:
    generator = torch.Generator("cpu").manual_seed(seed)
    # Seeds go as text: JavaScript's numbers end at 2^53.
    return dict(seed=str(seed), draws=[_draw(shape, generator) for shape in shapes])


def _draw(shape: list[int], generator: torch.Generator) -> dict:
    data = torch.randn(shape, generator=generator).numpy()
    raw = data.astype("<f4").tobytes()
    return dict(
        shape=shape,
        sha256=hashlib.sha256(raw).hexdigest(),  # of the little-endian float32 bytes
        firstHex=[
            data.reshape(-1)[i : i + 1].astype("<f4").tobytes().hex()
            for i in range(min(20, data.size))
        ],
    )
