"""Makes folders in COCO's form for tests."""

import json
from pathlib import Path

from tests.voc_folder import PICTURE  # 100×80

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "owl"}]


def box(image_id=1, category_id=3, bbox=(10, 20, 30, 40), **others):
    return {"id": 5, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "iscrowd": 0} | others


def content(*boxes, images=None, categories=CATEGORIES):
    images = images or [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}]
    return {"images": images, "annotations": list(boxes), "categories": categories}


def make_coco(root: Path, text, json_path="annotations/instances_val.json", folder="val", names=("a.jpg",)) -> Path:
    """A folder with this file of instances (a dict, or its text or bytes) and these pictures."""
    (root / json_path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(text) if isinstance(text, dict) else text
    (root / json_path).write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in names:
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(PICTURE)
    return root
