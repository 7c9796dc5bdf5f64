"""Measures in the pixels whether a picture shows what its caption says.

Background: median of the border. Foreground: pixels far from it. Colour: median inside the
foreground. Place and size: the foreground's bounding box. Shape: best overlap (intersection over
union) of the foreground with the five drawn shapes, stretched to its box. Drawn pictures must
score 1 (run this file).
"""
import numpy as np

from world import (BACKGROUNDS, COLORS, PALETTE, SHAPES, BASE_PX, render, sample_scenes,
                   shape_distance)

ATTRIBUTES = ("background", "color", "position", "size", "shape")
PALETTE_NAMES = list(PALETTE)
PALETTE_RGB = np.array(list(PALETTE.values()), float)
FOREGROUND_PIXELS_MIN = 20
POSITION_EDGES_PX = (24.5, 39.5)    # halfway between the drawn centres
LARGE_FROM_PX = 25.0                # between the two sizes' widths
OVERLAP_MIN = 0.6
ASPECT_WEIGHT = 0.3


def _nearest_name(rgb):
    return PALETTE_NAMES[int(((PALETTE_RGB - rgb) ** 2).sum(1).argmin())]


def _templates():
    """Each shape's filled mask, cropped to its bounding box."""
    grid = np.linspace(-1.3, 1.3, 261)
    x, y = np.meshgrid(grid, grid)
    masks = []
    for name in SHAPES:
        mask = shape_distance(name, x, y) < 0
        rows, cols = np.nonzero(mask)
        masks.append(mask[rows.min():rows.max() + 1, cols.min():cols.max() + 1])
    return masks


TEMPLATES = _templates()


def _resize(mask, shape):
    rows, cols = (((np.arange(n) + 0.5) / n * m).astype(int) for n, m in zip(shape, mask.shape))
    return mask[rows][:, cols]


def _best_shape(crop):
    """(shape name, overlap) of the drawn shape that covers the crop best."""
    scored = []
    for name, template in zip(SHAPES, TEMPLATES):
        fitted = _resize(template, crop.shape)
        overlap = (fitted & crop).sum() / max(1, (fitted | crop).sum())
        aspect = (crop.shape[0] / crop.shape[1]) / (template.shape[0] / template.shape[1])
        scored.append((overlap * (1 - ASPECT_WEIGHT * abs(np.log(aspect))), name))
    overlap, name = max(scored)
    return name, overlap


def _inside(mask):
    """The mask without its rim, whose pixels mix both colours; the whole mask if little is left."""
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return inner if inner.sum() > 8 else mask


def judge(picture, scenes, index):
    """Which attributes of scene `index` the picture [H, W, 3] shows: {attribute: bool}."""
    picture = picture.astype(float)
    height, width, _ = picture.shape
    border = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3),
                             picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    ground = np.median(border, 0)
    distance = np.sqrt(((picture - ground) ** 2).sum(-1))
    mask = distance > max(30, 0.5 * np.percentile(distance, 98))
    verdict = dict.fromkeys(ATTRIBUTES, False)
    verdict["background"] = _nearest_name(ground) == BACKGROUNDS[scenes.background[index]]
    if mask.sum() < FOREGROUND_PIXELS_MIN:
        return verdict

    rows, cols = np.nonzero(mask)
    top, bottom, left, right = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
    color = _nearest_name(np.median(picture[_inside(mask)], 0))
    verdict["color"] = color == COLORS[scenes.color[index]]
    third = lambda px: int(np.searchsorted(POSITION_EDGES_PX, px))
    place = 3 * third((top + bottom) / 2 * BASE_PX / height) \
        + third((left + right) / 2 * BASE_PX / width)
    verdict["position"] = place == scenes.position[index]
    extent = ((bottom - top) + (right - left)) / 2 * BASE_PX / min(height, width)
    verdict["size"] = (extent > LARGE_FROM_PX) == (scenes.size[index] == 1)
    name, overlap = _best_shape(mask[top:bottom, left:right])
    verdict["shape"] = name == SHAPES[scenes.shape[index]] and overlap > OVERLAP_MIN
    return verdict


def report(pictures, scenes):
    """Share of right pictures per attribute, and with all five right under "all"."""
    verdicts = [judge(picture, scenes, index) for index, picture in enumerate(pictures)]
    shares = {name: float(np.mean([v[name] for v in verdicts])) for name in ATTRIBUTES}
    shares["all"] = float(np.mean([all(v.values()) for v in verdicts]))
    return {name: round(share, 3) for name, share in shares.items()}


if __name__ == "__main__":
    for size in ((64, 64), (96, 96), (96, 64), (64, 96), (128, 128)):
        drawn = sample_scenes(300, np.random.default_rng(9), held_out=True)
        print("drawn pictures", size, report(render(drawn, *size), drawn))
