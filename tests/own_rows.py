"""Rows of a user: images of price labels in one folder, and a file of questions about them."""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

NAMES = ("Apples", "Bread", "Butter", "Cheese", "Coffee", "Honey", "Milk", "Rice", "Salt", "Tea")
QUESTION = "What is the price?"


def write_rows(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Draw ``count`` labels in ``folder/pictures``; returns the file of the rows, ``folder/mine.json``."""
    rng, rows = random.Random(seed), []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        price = f"{rng.randint(0, 19)}.{rng.randint(0, 99):02}"
        label = draw_label(rng.choice(NAMES), price, rng)
        label.save(folder / "pictures" / f"{number:02}.png")
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTION}"},
            {"from": "gpt", "value": price},
        ]
        rows.append({"id": number, "image": f"{number:02}.png", "conversations": turns})
    path = folder / "mine.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def draw_label(name: str, price: str, rng: random.Random) -> Image.Image:
    """A label of 224 x 160 px with a name above and a price below it."""
    image = Image.new("RGB", (224, 160), (255, rng.randint(235, 255), rng.randint(200, 255)))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    draw.rectangle((6, 6, 217, 153), outline=(60, 60, 60), width=2)
    draw.text((20 + rng.randint(0, 30), 24), name, fill=(20, 20, 20), font=font)
    draw.text((20 + rng.randint(0, 60), 90), f"EUR {price}", fill=(20, 20, 20), font=font)
    return image
