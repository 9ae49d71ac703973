from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from jaxcog.data.datasets.web_pairs import Decode, PairTransform, WebPairs, resize_plain
from jaxcog.data.examples import decode_example, encode_example, framed
from jaxcog.data.image_text import RowFilter, choose_text, open_pairs, pair_hash
from jaxcog.data.types import BadRecord
from jaxcog.data.wordpiece import small_vocabulary
from jaxcog.errors import DataError


def picture(shade: int, size: tuple[int, int] = (40, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def good_tar(path: Path) -> None:
    fields = {"alt_text": "a cake", "easy": "make a wish", "url": "nothing"}
    write_tar(
        path,
        {
            "a.png": picture(1),
            "a.txt": b"happy birthday",
            "b.png": picture(2),
            "b.json": json.dumps(fields).encode(),
            "c.png": picture(1),
            "c.txt": b"happy  birthday",
            "d.png": b"broken",
            "d.txt": b"no image at all",
            "e.png": picture(3),
            "e.txt": b"  ",
        },
    )


LENIENT = RowFilter(bad_fraction=0.5)


def test_webdataset_shards(tmp_path: Path):
    good_tar(tmp_path / "0.tar")
    source = open_pairs(str(tmp_path / "*.tar"), LENIENT)
    assert len(source) == 3
    assert source.listing.skipped == {"duplicates": 1, "empty texts": 1}
    assert "left out: 1 duplicates, 1 empty texts" in source.listing.report()
    assert source[0]["image"] == picture(1)
    assert source[1]["texts"] == (("alt_text", "a cake"), ("easy", "make a wish"))
    assert source.name_of(1) == f"{tmp_path}/0.tar: b"


def test_folders_with_jsonl(tmp_path: Path):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "x.png").write_bytes(picture(5))
    line = {"image_id": "imgs/x.png", "sentences": [["sur_text", "生日快乐"]], "bbox": []}
    lost = {"image_id": "imgs/gone.png", "sentences": [["sur_text", "生日快乐"]]}
    (tmp_path / "list.jsonl").write_text(json.dumps(line) + "\nnonsense\n")
    source = open_pairs(str(tmp_path), LENIENT)
    assert source[0]["image"] == picture(5)
    assert source[0]["texts"] == (("sur_text", "生日快乐"),)
    assert source.listing.skipped == {"lines that are no pair": 1}
    (tmp_path / "list.jsonl").write_text(json.dumps(lost))
    source = open_pairs(str(tmp_path), RowFilter(deduplicate=False))
    with pytest.raises(BadRecord, match="No such file"):
        source[0]


def test_array_records_of_examples(tmp_path: Path):
    path = str(tmp_path / "pairs.array_record-00000-of-00001")
    writer = ArrayRecordWriter(path, "group_size:1")
    for i in range(3):
        texts = [f"text {i}".encode(), b"another"]
        writer.write(encode_example({"image/encoded": [picture(i)], "text/alt": texts}))
    writer.close()
    source = open_pairs(str(tmp_path))
    assert len(source) == 3
    assert source[2]["image"] == picture(2)
    assert source[2]["texts"] == (("alt", "text 2"), ("alt", "another"))


def write_tfrecord(path: Path) -> bytes:
    examples = ({"image/encoded": [picture(i % 2)], "text": [b"a cake"]} for i in range(3))
    path.write_bytes(b"".join(framed(encode_example(example)) for example in examples))
    return path.read_bytes()


def test_tfrecords_of_examples(tmp_path: Path):
    write_tfrecord(tmp_path / "pairs.tfrecord-00000-of-00001")
    source = open_pairs(str(tmp_path))
    assert len(source) == 2
    assert source.listing.skipped == {"duplicates": 1}  # the same bytes and the same text
    assert source[1]["image"] == picture(1)
    assert source[1]["texts"] == (("text", "a cake"),)


def test_the_frame_of_a_record_is_the_usual_one():
    # Lengths and checksums as TensorFlow writes them around the record b"abc".
    head, tail = framed(b"abc")[:12], framed(b"abc")[-4:]
    assert head[:8] == (3).to_bytes(8, "little")
    assert masked(0x364B3FB7) == tail  # CRC-32C of "abc", as RFC 3720's polynomial gives it


def masked(crc: int) -> bytes:
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:-9], "it ends within a record"),
        (lambda data: data + data[:5], "it ends within the length"),
        (lambda data: b"x" + data[1:], "the length of a record does not fit its checksum"),
    ],
    ids=["record", "length", "checksum"],
)
def test_a_damaged_tfrecord_is_named(tmp_path: Path, damage, problem: str):
    path = tmp_path / "0.tfrecord"
    path.write_bytes(damage(write_tfrecord(path)))
    with pytest.raises(DataError, match=rf"0\.tfrecord is cut off or damaged \({problem}"):
        open_pairs(str(tmp_path))


def test_examples_keep_all_kinds_of_values():
    features = {"a": [b"x", b""], "b": [1, -2, 300], "c": [0.5, 1.5]}
    assert decode_example(encode_example(features)) == features
    with pytest.raises(BadRecord, match=r"not a tf\.train\.Example"):
        decode_example(encode_example(features)[:-3])


def test_texts_are_chosen_by_field_then_by_chance():
    texts = (("alt", "one"), ("easy", "two"), ("easy", "three"))
    assert choose_text(texts, ("easy", "alt"), None) == "two"
    drawn = {choose_text(texts, ("easy",), np.random.default_rng(i)) for i in range(8)}
    assert drawn == {"two", "three"}
    assert choose_text(texts, ("none",), None) == "one"


def test_pairs_of_one_text_have_one_hash():
    assert pair_hash("a", (("x", "same  text"),)) == pair_hash("b", (("y", "same text"),))
    assert pair_hash("a", (("x", "same"),)) != pair_hash("a", (("x", "other"),))


def test_a_shard_without_texts_is_named(tmp_path: Path):
    write_tar(tmp_path / "0.tar", {"a.png": picture(1), "b.png": picture(2)})
    with pytest.raises(DataError, match=r"0\.tar: 2 images and no text: give every image a text"):
        open_pairs(str(tmp_path))


@pytest.mark.parametrize("keep", [0.45, 0.8])
def test_a_tar_cut_in_the_middle_is_named(tmp_path: Path, keep: float):
    good_tar(tmp_path / "0.tar")
    data = (tmp_path / "0.tar").read_bytes()
    used = data.rstrip(b"\0")
    (tmp_path / "0.tar").write_bytes(used[: int(keep * len(used)) // 512 * 512 + 100])
    with pytest.raises(DataError, match=r"0\.tar is cut off or damaged .*copy it again"):
        open_pairs(str(tmp_path), LENIENT)


def test_too_much_that_is_bad_is_an_error(tmp_path: Path):
    write_tar(
        tmp_path / "0.tar",
        {"a.png": picture(1), "a.txt": b"fine text", "b.png": picture(2), "b.txt": b" "},
    )
    with pytest.raises(DataError, match=r"1 of 2 pairs cannot be used .*bad_fraction=0\.2"):
        open_pairs(str(tmp_path))


def test_nothing_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no image-text shards there: expected"):
        open_pairs(str(tmp_path / "none"))


def test_records_become_arrays_and_odd_images_are_refused():
    transform = PairTransform(Decode(16), small_vocabulary, 8)
    record = {"image": picture(9), "texts": (("t", "hi"),), "pair": 3}
    made = transform(record, np.random.default_rng(0))
    assert made["image"].shape == (16, 16, 3)
    assert made["image"].dtype == np.uint8
    assert made["ids"].shape == (8,)
    with pytest.raises(BadRecord, match="a side below 32"):
        Decode(16)(picture(1, (20, 100)))
    with pytest.raises(BadRecord, match="an aspect above 5"):
        Decode(16)(picture(1, (40, 400)))


def test_the_host_resizes_as_the_device_does():
    import jax.numpy as jnp

    from jaxcog.systems.brivl.ops import resize

    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype(np.uint8)
    ours = resize_plain(image, 24).astype(np.float32)
    assert np.abs(ours - np.asarray(resize(jnp.asarray(image), 24))).max() <= 0.51


def test_web_pairs_load_with_a_vocabulary_of_the_stated_size(tmp_path: Path):
    good_tar(tmp_path / "0.tar")
    config = WebPairs(
        path=str(tmp_path),
        valid=str(tmp_path),
        size=16,
        text_length=12,
        vocabulary=None,
        vocab=len(small_vocabulary()),
        filter=LENIENT,
    )
    splits = config.load()
    assert splits.info.num_examples == 3
    record = splits.train.transform(splits.train.source[0], np.random.default_rng(0))
    assert {name: value.shape for name, value in record.items()} == {
        name: struct.shape for name, struct in splits.info.element.items()
    }
    wrong = WebPairs(path=str(tmp_path), valid=str(tmp_path), vocabulary=None, vocab=21128)
    with pytest.raises(DataError, match=r"embedded vocabulary has \d+ tokens, 21128 are expected"):
        wrong.load()
