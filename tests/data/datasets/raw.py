"""Small raw trees in the layouts in which the datasets are distributed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def picture(path: Path, seed: int, height: int = 20, width: int = 24) -> None:
    """A plain random colour with a little structure, so that images differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    image = np.broadcast_to(random.integers(0, 256, 3, np.uint8), (height, width, 3)).copy()
    image[: height // 2] //= 2
    Image.fromarray(image).save(path)


def pacs(raw: Path, domains: tuple[str, ...], per_class: int = 3) -> Path:
    """images/<domain>/<class>/, splits/*_kfold.txt with labels from 1."""
    (raw / "splits").mkdir(parents=True)
    for d, domain in enumerate(domains):
        for part, count in (("train", per_class), ("crossval", 1)):
            lines = []
            for label, name in enumerate(CLASSES):
                for i in range(count):
                    file = f"{domain}/{name}/{part}{i}.png"
                    picture(raw / "images" / file, d * 100 + label * 10 + i)
                    lines.append(f"{file} {label + 1}")
            (raw / "splits" / f"{domain}_{part}_kfold.txt").write_text("\n".join(lines) + "\n")
    broken = "sketch/dog/n02103406_4068-1.png"
    with (raw / "splits" / "sketch_train_kfold.txt").open("a") as file:
        file.write(f"{broken} 1\n")
    (raw / "images" / broken).write_bytes(b"broken")
    return raw


def folders(raw: Path, domains: tuple[str, ...], parts: tuple[str, ...], classes: int) -> Path:
    """<domain>/<part>/<class>/*.jpg, two images each."""
    for d, domain in enumerate(domains):
        for part in parts:
            for label in range(classes):
                for i in range(2):
                    file = raw / domain / part / f"class{label:02d}" / f"{i}.jpg"
                    picture(file, d * 100 + label * 10 + i)
    return raw


def mini_domain_net(raw: Path, domains: tuple[str, ...], classes: int) -> Path:
    """splits_mini/<domain>_{train,test}.txt with labels from 0."""
    (raw / "splits_mini").mkdir(parents=True)
    for domain in domains:
        for part in ("train", "test"):
            lines = []
            for label in range(classes):
                file = f"{domain}/thing{label}/{domain}_{part}_{label}.jpg"
                picture(raw / file, label)
                lines.append(f"{file} {label}")
            (raw / "splits_mini" / f"{domain}_{part}.txt").write_text("\n".join(lines))
    return raw


def hash_lists(raw: Path, classes: int, *, multi: bool, prefix: str = "") -> Path:
    """train.txt, test.txt, database.txt with 0/1 columns; the database begins with train."""
    random = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": [], "database": []}
    for split, count in (("train", 2), ("test", 1), ("database", 3)):
        for label in range(classes):
            for i in range(count):
                row = np.zeros(classes, int)
                row[label] = 1
                if multi:
                    row[random.integers(classes)] = 1
                file = f"images/{split}{label}_{i}.jpg"
                picture(raw / file, label * 10 + i)
                lines[split].append(f"{prefix}{file} {' '.join(map(str, row))}")
    lines["database"] = lines["train"] + lines["database"]
    for split, text in lines.items():
        (raw / f"{split}.txt").write_text("\n".join(text) + "\n")
    return raw


def cifar10(raw: Path, *, binary: bool, per_class: int) -> np.ndarray:
    """Five batches and a test batch of 32x32 images; returns the pixels [N, 3, 32, 32]."""
    raw.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    everything = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = np.repeat(np.arange(10), per_class)
        pixels = random.integers(0, 256, (len(labels), 3072), np.uint8)
        everything.append(pixels.reshape(-1, 3, 32, 32))
        if binary:
            rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (raw / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            batch = {"data": pixels, "labels": labels.tolist(), "filenames": ["x"] * len(labels)}
            (raw / name).write_bytes(pickle.dumps(batch, protocol=2))
    return np.concatenate(everything)


def descriptors(path: Path, count: int, *, first_label: int, seed: int) -> np.ndarray:
    """A file of {"codes", "labels", "id"}; returns the codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codes = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    labels = np.arange(count) % 3 + first_label
    names = [f"{path.stem}{i}" for i in range(count)]
    path.write_bytes(pickle.dumps({"codes": codes, "labels": labels, "id": names}))
    return codes


def visda17(raw: Path, classes: int) -> Path:
    """{train,validation}/image_list.txt with labels from 0, two images of each class."""
    for folder in ("train", "validation"):
        lines = []
        for label in range(classes):
            for i in range(2):
                file = f"thing{label}/{i}.jpg"
                picture(raw / folder / file, label * 10 + i)
                lines.append(f"{file} {label}\n")
        (raw / folder / "image_list.txt").write_text("".join(lines))
    return raw


def reid(raw: Path, persons: int, cameras: int) -> Path:
    """bounding_box_train, query, bounding_box_test with <person>_c<camera>s1_<i>.jpg."""
    for folder, first in (("bounding_box_train", 2), ("query", 100), ("bounding_box_test", 100)):
        for person in range(first, first + persons):
            for camera in range(1, cameras + 1):
                for i in range(1 if folder == "query" else 2):
                    file = raw / folder / f"{person:04d}_c{camera}s1_{i}.jpg"
                    picture(file, 1000 * person + 10 * camera + i, 32, 16)
    for name in ("-1_c1s1_0.jpg", "0000_c2s1_0.jpg"):
        picture(raw / "bounding_box_test" / name, 7, 32, 16)
    (raw / "query" / "Thumbs.db").write_bytes(b"")
    return raw
