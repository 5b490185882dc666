import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolo.cli import main
from yolo.data.conversion import Target, convert
from yolo.data.dataset import DetectionDataset
from yolo.data.formats.coco import read_coco
from yolo.data.formats.voc import read_voc
from yolo.data.formats.yolo_txt import read_yolo
from yolo.data.open import load_annotated
from yolo.errors import DataError

Coco = Callable[..., Path]
BOX = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 5, 20, 10]}


def assert_equal(one: DetectionDataset, other: DetectionDataset) -> None:
    assert one.class_names == other.class_names
    for mine, theirs in zip(one.records, other.records, strict=True):
        assert np.allclose(mine.boxes, theirs.boxes, atol=1e-3)
        assert mine.classes.tolist() == theirs.classes.tolist()
        assert mine.path.read_bytes() == theirs.path.read_bytes()


def lines(source: Path, to: str, out: Path) -> list[str]:
    return list(convert(source, Target(to), out))


def test_coco_becomes_yolo_and_coco_again(coco: Coco, tmp_path: Path) -> None:
    boxes = [BOX, BOX | {"bbox": [1.25, 2, 9, 9], "category_id": 3}]
    source = coco(annotations=[*boxes, BOX | {"iscrowd": 1}])
    told = lines(source, "yolo", tmp_path / "yolo")
    assert any("1 crowd boxes were left out" in line for line in told)
    assert any("train: 1 images, 2 boxes of 2 classes" in line for line in told)
    yolo = read_yolo(tmp_path / "yolo" / "data.yaml", "train")
    assert_equal(yolo, read_coco(coco(annotations=boxes), tmp_path / "images"))
    lines(tmp_path / "yolo", "coco", tmp_path / "coco")
    annotations = tmp_path / "coco" / "annotations" / "instances_train.json"
    assert_equal(read_coco(annotations, tmp_path / "coco" / "images" / "train"), yolo)


def test_crowds_and_ids_survive_in_coco(coco: Coco, tmp_path: Path) -> None:
    source = coco(annotations=[BOX | {"iscrowd": 1, "area": 77}])
    lines(source, "coco", tmp_path / "out")
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    (entry,) = written["annotations"]
    assert entry == BOX | {"iscrowd": 1, "area": 77}
    assert written["categories"] == [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]


def test_all_splits_of_a_voc_folder_are_written(
    tmp_path: Path, picture: Callable[..., Path]
) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        folder = tmp_path / "voc" / split
        folder.mkdir(parents=True)
        picture(f"{name}.png").rename(folder / f"{name}.png")
        corners = "<xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax>"
        (folder / f"{name}.xml").write_text(
            f"<annotation><object><name>é: cat</name><bndbox>{corners}</bndbox></object></annotation>"
        )
    told = lines(tmp_path / "voc", "yolo", tmp_path / "out")
    assert told[-1].endswith(
        f"data: {{format: yolo, root: {tmp_path / 'out'}, train: data.yaml, val: data.yaml}}"
    )
    written = tmp_path / "out" / "data.yaml"
    assert_equal(read_yolo(written, "train"), read_voc(tmp_path / "voc", "train"))
    assert_equal(read_yolo(written, "val"), read_voc(tmp_path / "voc", "valid", "train"))


def test_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for number, name in enumerate(("x/images/a.png", "y/images/a.png", "y/images/a.bmp")):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
    for folder, category in (("x", 0), ("y", 1)):
        (tmp_path / "set" / folder / "labels").mkdir()
        (tmp_path / "set" / folder / "labels" / "a.txt").write_text(f"{category} 0.5 0.5 0.2 0.2\n")
    (tmp_path / "set" / "data.yaml").write_text("train: [x/images, y/images]\nnames: [p, q]\n")
    lines(tmp_path / "set" / "data.yaml", "yolo", tmp_path / "out")
    source = read_yolo(tmp_path / "set" / "data.yaml", "train")
    written = read_yolo(tmp_path / "out" / "data.yaml", "train")
    assert len(written) == 3
    by_pixels = {record.path.read_bytes(): record.classes.tolist() for record in source.records}
    for record in written.records:
        assert by_pixels[record.path.read_bytes()] == record.classes.tolist()


def test_an_image_annotated_before_its_rotation_is_left_out_of_yolo(
    coco: Coco, tmp_path: Path
) -> None:
    source, exif = coco(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "a.png", exif=exif)
    told = lines(source, "yolo", tmp_path / "out")
    assert any("1 x image of another size than annotated" in line for line in told)
    assert any("0 images, 0 boxes of 2 classes; 1 images left out" in line for line in told)
    assert any("1 images, 1 boxes" in line for line in lines(source, "coco", tmp_path / "other"))


def coco_folder(coco: Coco, tmp_path: Path, *names: str) -> Path:
    """A COCO folder of one image with an annotation file per name."""
    text = coco().read_text()
    (tmp_path / "annotations").mkdir()
    for name in names:
        (tmp_path / "annotations" / f"instances_{name}.json").write_text(text)
    return tmp_path


def test_files_named_with_a_year_are_the_splits_of_a_coco_folder(
    coco: Coco, tmp_path: Path
) -> None:
    source = coco_folder(coco, tmp_path, "train2017", "val2017")
    told = lines(source, "coco", tmp_path / "out")
    assert "train: annotations/instances_train.json, images: images/train, val: " in told[-1]
    for split in ("train", "val"):
        assert len(load_annotated(tmp_path / "out", split)) == 1
    assert load_annotated(source).source.endswith("instances_val2017.json")
    with pytest.raises(DataError, match="instances_test.json: no such file.*there: train, val$"):
        load_annotated(source, "test")
    with pytest.raises(DataError, match="is one split, so --split val has no use"):
        load_annotated(source / "annotations" / "instances_val2017.json", "val")


def test_two_sources_of_one_split_are_refused(coco: Coco, tmp_path: Path) -> None:
    source = coco_folder(coco, tmp_path, "val2014", "val2017")
    with pytest.raises(DataError, match="val2017.json: is taken for the split val, and so is"):
        lines(source, "coco", tmp_path / "out")
    for name in ("voc/val", "voc/valid"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="valid: is taken for the split val, and so is .*voc/val;"):
        lines(tmp_path / "voc", "coco", tmp_path / "out")


def test_a_voc_folder_of_unknown_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "first.txt").write_text("a\n")
    with pytest.raises(DataError, match="train.txt: no such list.*splits there: first"):
        lines(tmp_path, "coco", tmp_path / "out")


def test_an_image_folder_is_for_coco_only(coco: Coco, tmp_path: Path) -> None:
    lines(coco(), "yolo", tmp_path / "yolo")
    (tmp_path / "voc" / "train").mkdir(parents=True)
    for source in (tmp_path / "yolo", tmp_path / "voc"):
        with pytest.raises(DataError, match="--images other has no use"):
            list(convert(source, Target.COCO, tmp_path / "out", Path("other")))


def test_class_names_of_any_characters_are_read_back_from_yaml(coco: Coco, tmp_path: Path) -> None:
    names = [
        "\N{GRINNING FACE}",
        "caf\xe9: 1",
        "yes",
        "1",
        "a\x85b\u2028c\x80",
        "long " * 200 + ".",
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    lines(coco(categories=categories), "yolo", tmp_path / "out")
    written = tmp_path / "out" / "data.yaml"
    assert read_yolo(written, "train").class_names == tuple(names)
    assert names[0] in written.read_text("utf-8")


def test_images_are_links_or_copies_and_it_is_said_which(
    coco: Coco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = coco()
    assert any("hard links" in line for line in lines(source, "coco", tmp_path / "linked"))
    assert (tmp_path / "linked/images/train/a.png").samefile(tmp_path / "images/a.png")

    def refuse(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    assert "1 images were copied" in lines(source, "coco", tmp_path / "copied")
    assert not (tmp_path / "copied/images/train/a.png").samefile(tmp_path / "images/a.png")


def test_nothing_is_written_over_or_left_half_written(
    coco: Coco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = coco()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out: is there already"):
        lines(source, "yolo", tmp_path / "out")
    monkeypatch.setattr(json, "dumps", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lines(source, "coco", tmp_path / "new")
    assert not any("new" in path.name for path in tmp_path.iterdir())


def test_a_file_name_that_is_not_utf8_survives(coco: Coco, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    source = coco(images=[{"id": 1, "file_name": name, "width": 60, "height": 40}])
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / name)
    for to in Target:
        lines(source, to, tmp_path / to)
    written = tmp_path / "coco" / "annotations" / "instances_train.json"
    assert load_annotated(written, images=tmp_path / "coco/images/train").records[0].path.is_file()
    assert len(read_yolo(tmp_path / "yolo" / "data.yaml", "train").records[0].boxes) == 1


def test_the_command_tells_what_it_wrote(
    coco: Coco, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("convert", str(coco()), "--to", "yolo", "--out", str(tmp_path / "out"))
    assert main(list(arguments)) == 0
    assert "train: 1 images, 1 boxes of 2 classes" in capsys.readouterr().out
    assert main(list(arguments)) == 2
    assert "out: is there already" in capsys.readouterr().err
