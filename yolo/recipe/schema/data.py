"""`data`: which images, and how they are altered on the way to the network."""

import re
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator

from yolo.recipe.schema.fields import (
    Auto,
    Count,
    CountOrZero,
    Degrees,
    Gigabytes,
    HueShare,
    Section,
    Share,
    setting,
)

Preset = Literal["none", "low", "medium", "high"]

_LOW = {
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "degrees": 0.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 0.0,
    "perspective": 0.0,
    "flipud": 0.0,
    "fliplr": 0.5,
    "mosaic": 1.0,
    "mixup": 0.0,
}
# The public YOLOv5's hyp.scratch-{low,med,high} (medium and high differ there only in copy-paste, which needs
# segmentation masks; here high takes rotation in its stead) and hyp.no-augmentation.
AUGMENTATION_PRESETS = MappingProxyType(
    {
        "none": MappingProxyType(dict.fromkeys(_LOW, 0.0)),
        "low": MappingProxyType(_LOW),
        "medium": MappingProxyType(_LOW | {"scale": 0.9, "mixup": 0.1}),
        "high": MappingProxyType(_LOW | {"scale": 0.9, "mixup": 0.1, "degrees": 5.0}),
    }
)


class AugmentationSection(Section):
    """How training images are altered; `auto` takes the preset's value."""

    preset: Preset = setting("low")
    """`low` for n and s, `high` for m, l and x, `medium` between; `none` alters nothing."""
    hsv_h: Auto | HueShare = setting("auto", unit="share")
    """Hue, from 0 at red around the circle to 1 at red, is multiplied by 1 plus or minus up to this."""
    hsv_s: Auto | Share = setting("auto", unit="share")
    """Saturation is multiplied by 1 plus or minus up to this."""
    hsv_v: Auto | Share = setting("auto", unit="share")
    """Brightness is multiplied by 1 plus or minus up to this."""
    degrees: Auto | Degrees = setting("auto", unit="degrees")
    """Rotation by up to this much either way."""
    translate: Auto | Share = setting("auto", unit="share of the image's side")
    """Shift by up to this much either way."""
    scale: Auto | Share = setting("auto", unit="share")
    """Magnification between 1 minus and 1 plus this."""
    shear: Auto | Degrees = setting("auto", unit="degrees")
    """Shear by up to this much either way."""
    perspective: Auto | Share = setting("auto", unit="share per pixel")
    """Perspective distortion, 0 to about 0.001."""
    flipud: Auto | Share = setting("auto", unit="probability")
    """Upside-down flip."""
    fliplr: Auto | Share = setting("auto", unit="probability")
    """Left-right flip."""
    mosaic: Auto | Share = setting("auto", unit="probability")
    """Four images in one."""
    mixup: Auto | Share = setting("auto", unit="probability")
    """A mosaic blended with a second mosaic."""
    mosaic_from: Literal["all", "batch"] = setting("all")
    """`all`: a mosaic's other three images are any of the data set's. `batch`: they are of the same micro batch, so that each image is decoded once and not four times, for data sets that `data.cache` cannot hold; images of a batch then resemble each other more. Shards always do the like, with the images in their buffer."""
    mosaic_off_epochs: CountOrZero = setting(0, unit="epochs")
    """No mosaic and no mixup in this many last epochs, so that training ends on whole images."""


def is_url(place: str) -> bool:
    """Whether a place is named by a scheme, as https://host/path and pipe:command are, and not by a path."""
    return re.match(r"pipe:|[a-z][a-z0-9+.-]+://|file:", place) is not None


def _one_that_opens(place: str) -> str:
    if place.startswith("pipe:"):
        if place.count("{}") != 1:
            raise ValueError(
                "is a command without a place for a file's name; write {} there once, as in "
                "pipe:aws s3 cp s3://bucket/folder/{} -"
            )
    elif is_url(place) and not re.match(r"https?://|file:", place):
        raise ValueError(
            "cannot be opened; expected a path, http://, https://, or a command such as "
            "pipe:aws s3 cp s3://bucket/folder/{} -"
        )
    return place


Place = Annotated[str, AfterValidator(_one_that_opens)]


class DataSection(Section):
    """The data set."""

    format: Literal["coco", "yolo", "shards"] = setting("coco")
    """`coco`: one JSON of annotations a split. `yolo`: a data.yaml, and one .txt of `class cx cy w h` an image. `shards`: what `yolo shard` wrote; training images are streamed from it and need not fit the machine, validation images are fetched once into data.cache_folder."""
    root: Place = setting("data/demo")
    """The data set's folder; the other paths are relative to it, and it to where the command runs. shards: also http(s)://, or `pipe:` and a shell command that prints the file whose name stands for {}."""
    train: Place = setting("annotations/instances_train.json")
    """coco: the training split's annotation file. yolo: the data.yaml, whose `train:` is taken. shards: the folder of the training split's shards, or a place such as `root` may be."""
    val: Place = setting("annotations/instances_val.json")
    """coco: the validation split's annotation file. yolo: the data.yaml, whose `val:` is taken. shards: as `train`."""
    images: str = setting("images")
    """coco: the folder of the training images. yolo: not used."""
    val_images: Auto | str = setting("auto")
    """coco: the folder of the validation images; `auto` takes `images`."""
    augmentation: AugmentationSection = AugmentationSection()
    """How training images are altered."""
    workers: Auto | CountOrZero = setting("auto", unit="processes a rank")
    """Processes that read and alter images beside each rank; 0 does it in the rank itself. `auto` divides the cores among the ranks: on GPUs up to 8 each, on processors 1 where a rank has more than one core."""
    shuffle_buffer: Count = setting(256, unit="images a worker")
    """shards: images kept ready, of which the next is drawn at random and a mosaic's others are taken; decoded they take 3 bytes a pixel."""
    cache: Literal["ram", "disk", "none"] = setting("ram")
    """Keep images decoded and fitted to `model.image_size`, once a machine: in memory that ends with the run, or in a file that later runs find again. shards: the validation images only."""
    cache_gb: Auto | Gigabytes = setting("auto", unit="GB a machine")
    """Room for them; images beyond it are decoded each time. `auto` is a quarter of the free memory, or half of the free disk."""
    cache_folder: Auto | str = setting("auto")
    """disk, and shards' validation images: a local folder. `auto` is yolo-images in the user's cache folder."""
    max_bad_share: Share = setting(0.01, unit="share of the images, and of the boxes")
    """Training stops before it starts when more of the images are corrupt or missing, or more of the boxes malformed."""
