"""The world flux-tiny learns: one flat shape on a plain background.

It is small enough for two CPU cores and still has what a text-to-image test needs: attributes
that can be measured in the pixels (shape, colour, background, size, position), colours that are
both a shape's and a background's (so word order matters), and combinations that are never trained
(so a right picture shows composition, not memory).

Geometry is in pixels of a 64x64 picture. Other picture sizes stretch the places to the picture;
the shape itself keeps its proportions and grows with the shorter side.
"""
from dataclasses import dataclass

import numpy as np

PALETTE = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220),
    "yellow": (245, 215, 50), "orange": (245, 130, 20), "purple": (140, 60, 180),
    "white": (250, 250, 250), "black": (15, 15, 15), "gray": (128, 128, 128),
    "pink": (250, 150, 190),
}
SHAPES = ["circle", "square", "triangle", "star", "heart"]
COLORS = ["red", "green", "blue", "yellow", "orange", "purple", "white", "black"]
BACKGROUNDS = ["white", "black", "gray", "yellow", "blue", "pink"]
SIZES = ["small", "large"]
POSITIONS = ["top left", "top", "top right", "left", "center", "right",
             "bottom left", "bottom", "bottom right"]

BASE_PX = 64
RADIUS_PX = np.array([10.0, 16.0])
RADIUS_JITTER_PX = 0.6
CENTER_PX = np.array([17.0, 32.0, 47.0])
CENTER_JITTER_PX = 1.2
RENDER_PIXELS_MAX = 8_000_000

# Number of classes of each attribute, in the order of Scenes.labels.
CLASS_COUNTS = (len(SHAPES), len(COLORS), len(BACKGROUNDS), len(POSITIONS), len(SIZES))


@dataclass
class Scenes:
    """n scenes as arrays of length n: indices into the lists above, and the geometry in px."""
    shape: np.ndarray
    color: np.ndarray
    background: np.ndarray
    size: np.ndarray
    position: np.ndarray
    radius: np.ndarray
    center_x: np.ndarray
    center_y: np.ndarray

    def __len__(self):
        return len(self.shape)


def is_held_out(shape, color, background):
    """True for the tenth of the (shape, colour, background) combinations that is never trained."""
    return (np.asarray(shape) * 7 + np.asarray(color) * 13 + np.asarray(background) * 5) % 10 == 0


def sample_scenes(count, rng, held_out=False):
    """Draws `count` scenes, all from the trained or all from the held-out combinations."""
    drawn = count * 20 + 100 if held_out else count * 2 + 100
    shape = rng.integers(0, len(SHAPES), drawn)
    color = rng.integers(0, len(COLORS), drawn)
    background = rng.integers(0, len(BACKGROUNDS), drawn)
    invisible = np.array([[c == b for b in BACKGROUNDS] for c in COLORS])[color, background]
    wanted = is_held_out(shape, color, background) == held_out
    kept = np.nonzero(~invisible & wanted)[0][:count]
    assert len(kept) == count, f"drew {len(kept)} of {count} scenes; draw more candidates"
    size = rng.integers(0, len(SIZES), count)
    position = rng.integers(0, len(POSITIONS), count)

    def jitter(px):
        return rng.uniform(-px, px, count)

    return Scenes(
        shape[kept], color[kept], background[kept], size, position,
        RADIUS_PX[size] + jitter(RADIUS_JITTER_PX),
        CENTER_PX[position % 3] + jitter(CENTER_JITTER_PX),
        CENTER_PX[position // 3] + jitter(CENTER_JITTER_PX))


def shape_distance(name, x, y):
    """Signed distance-like function of a shape of radius 1 around the origin; y points down."""
    abs_x = np.abs(x)
    if name == "circle":
        return np.hypot(x, y) - 0.95
    if name == "square":
        return np.maximum(abs_x, np.abs(y)) - 0.86
    if name == "triangle":
        y = y - 0.2
        return np.maximum(y - 0.6, 0.866 * abs_x - 0.5 * y - 0.6)
    if name == "star":
        return _star_distance(abs_x, y)
    assert name == "heart", f"unknown shape {name}; the world has {SHAPES}"
    # A square on its corner with a disc on each of its two upper sides.
    y, half = y - 0.1, 0.6
    u, v = (x + y) / 2 ** 0.5, (y - x) / 2 ** 0.5
    diamond = np.maximum(np.abs(u), np.abs(v)) - half
    lobes = np.minimum(np.hypot(u + half, v), np.hypot(u, v + half)) - half
    return np.minimum(diamond, lobes)


def _star_distance(abs_x, y, outer=1.12, inner=0.46):
    """Folds the plane into one of the ten half-arms and measures the distance to its edge."""
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(abs_x, -y) + sector / 2) % sector - sector / 2)
    radius = np.hypot(abs_x, y)
    edge_x, edge_y = inner * np.cos(sector / 2) - outer, inner * np.sin(sector / 2)
    cross = edge_y * (radius * np.cos(angle) - outer) - edge_x * radius * np.sin(angle)
    return cross / np.hypot(edge_x, edge_y)


def render(scenes, height=BASE_PX, width=BASE_PX):
    """Draws the scenes with one pixel of anti-aliasing -> uint8 [n, height, width, 3]."""
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    colors = np.array([PALETTE[c] for c in COLORS], np.float32)[scenes.color]
    grounds = np.array([PALETTE[b] for b in BACKGROUNDS], np.float32)[scenes.background]
    pictures = np.empty((len(scenes), height, width, 3), np.uint8)
    for index, name in enumerate(SHAPES):
        members = np.nonzero(scenes.shape == index)[0]
        chunks = max(1, len(members) * height * width // RENDER_PIXELS_MAX)
        for chunk in np.array_split(members, chunks):
            column = lambda values: values[chunk].astype(np.float32)[:, None, None]
            radius = column(scenes.radius) * min(height, width) / BASE_PX
            x = (cols - column(scenes.center_x) * width / BASE_PX) / radius
            y = (rows - column(scenes.center_y) * height / BASE_PX) / radius
            cover = np.clip(0.5 - shape_distance(name, x, y) * radius, 0, 1)[..., None]
            ground, color = grounds[chunk][:, None, None], colors[chunk][:, None, None]
            pictures[chunk] = ground * (1 - cover) + color * cover + 0.5
    return pictures
