"""The card's contact sheet: every prompt once, one try, at the sizes the model was trained on."""
from PIL import Image, ImageDraw

ZOOM = 2
LABEL_PX, LINE_CHARACTERS, COLUMNS = 42, 25, 6

SQUARE_PROMPTS = [
    "a large red circle in the top left on a yellow background",
    "a small green square in the bottom right on a white background",
    "a large blue star in the center on a pink background",
    "a small orange heart at the top on a black background",
    "a large purple triangle on the left on a gray background",
    "a small white circle on the right on a blue background",
    "a large black heart in the bottom left on a yellow background",
    "a small yellow star at the bottom on a blue background",
    "on a black background, a large white square in the top right",
    "a pink background with a small black triangle in the bottom left corner",
    "large green heart, center, white background",
    "small red square, top, gray background",
    "a red star on white",
    "a big orange circle in the middle on a black background",
    "a tiny purple square in the top right corner on a pink background",
    "a little blue triangle in the bottom right on a white background",
    "a large white heart on a blue background",
    "a large blue heart on a white background",
]
OTHER_PROMPTS = [
    "a large red circle in the top left on a yellow background",
    "a small green star in the bottom right on a white background",
    "a large blue heart in the center on a pink background",
    "a small orange square at the top on a black background",
    "a large purple triangle on the left on a gray background",
    "a large white circle on the right on a blue background",
]
OTHER_SIZES = [(96, 96), (96, 64), (64, 96), (128, 128)]
SWEEP_PROMPT = "a large red star on a gray background"
SWEEP = [1.0, 2.0, 3.5, 5.0, 6.0]
FREE_PROMPT = "a large blue circle in the center"


def _wrap(text):
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > LINE_CHARACTERS:
            lines.append("")
        lines[-1] = (lines[-1] + " " + word).strip()
    return lines


def _cells(artist):
    """(label, picture) row by row: each list is one row."""
    pictures = artist.draw(SQUARE_PROMPTS, seed=100)
    cells = list(zip(SQUARE_PROMPTS, pictures))
    rows = [cells[start:start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    for size in OTHER_SIZES:
        drawn = artist.draw(OTHER_PROMPTS, size=size, seed=200)
        rows.append([(f"{size[0]}x{size[1]}: {prompt}", picture)
                     for prompt, picture in zip(OTHER_PROMPTS, drawn)])
    rows.append([(f"guidance {guidance}: {SWEEP_PROMPT}",
                  artist.draw([SWEEP_PROMPT], guidance=guidance, seed=300)[0])
                 for guidance in SWEEP])
    free = [("no background asked: " + FREE_PROMPT, picture)
            for picture in artist.draw([FREE_PROMPT] * 3, guidance=1.0, seed=400)]
    negative = f"{FREE_PROMPT} on a white background"
    steered = artist.draw([FREE_PROMPT] * 3, guidance=1.0, seed=400, true_cfg=3.0,
                          negatives=[negative] * 3)
    rows.append(free + [("same, negative: white background", picture) for picture in steered])
    return rows


def draw(artist, path):
    rows = _cells(artist)
    heights = [max(picture.shape[0] for _, picture in row) * ZOOM + LABEL_PX for row in rows]
    widths = [sum(max(picture.shape[1] * ZOOM, 136) + 8 for _, picture in row) for row in rows]
    sheet = Image.new("RGB", (max(widths), sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights):
        left = 4
        for label, picture in row:
            size = (picture.shape[1] * ZOOM, picture.shape[0] * ZOOM)
            sheet.paste(Image.fromarray(picture).resize(size, Image.NEAREST), (left, top + 2))
            for index, line in enumerate(_wrap(label)):
                pen.text((left, top + size[1] + 4 + index * 10), line, fill="black", font_size=9)
            left += max(size[0], 136) + 8
        top += height
    sheet.save(path, optimize=True)
