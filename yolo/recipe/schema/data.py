"""`data`: which images, and how they are augmented."""

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


class AugmentationSection(Section):
    """How training images are augmented; `auto` is the preset's value."""

    preset: Preset = setting("low")
    """`low` for n and s, `high` for m, l and x, `medium` between; `none` changes nothing."""
    hsv_h: Auto | HueShare = setting("auto", unit="share")
    """Hue, from 0 at red around the circle to 1 at red, is multiplied by a factor between 1 minus and 1 plus this."""
    hsv_s: Auto | Share = setting("auto", unit="share")
    """Saturation is multiplied by a factor between 1 minus and 1 plus this."""
    hsv_v: Auto | Share = setting("auto", unit="share")
    """Brightness is multiplied by a factor between 1 minus and 1 plus this."""
    degrees: Auto | Degrees = setting("auto", unit="degrees")
    """Rotation by up to this angle, in both directions."""
    translate: Auto | Share = setting("auto", unit="share of the image's side")
    """Shift by up to this, in both directions."""
    scale: Auto | Share = setting("auto", unit="share")
    """Magnification between 1 minus and 1 plus this."""
    shear: Auto | Degrees = setting("auto", unit="degrees")
    """Shear by up to this angle, in both directions."""
    perspective: Auto | Share = setting("auto", unit="share per pixel")
    """Perspective distortion; useful values are 0 to about 0.001."""
    flipud: Auto | Share = setting("auto", unit="probability")
    """Flip upside down."""
    fliplr: Auto | Share = setting("auto", unit="probability")
    """Flip left to right."""
    mosaic: Auto | Share = setting("auto", unit="probability")
    """Join four images into one."""
    mixup: Auto | Share = setting("auto", unit="probability")
    """Blend a mosaic with a second one."""
    mosaic_from: Literal["all", "batch"] = setting("all")
    """Where a mosaic's other three images come from. `all`: the full data set. `batch`: the same micro batch, so that each image is decoded once and not four times, for data sets that `data.cache` cannot hold; images of a batch then resemble each other more. Shards always take images from their buffer."""
    mosaic_off_epochs: CountOrZero = setting(0, unit="epochs")
    """No mosaic and no mixup in the last this many epochs, so that training ends on unmixed images."""


_NONE = {
    name: 0.0 for name, field in AugmentationSection.model_fields.items() if field.default == "auto"
}
_LOW = _NONE | {
    **{"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4},
    **{"translate": 0.1, "scale": 0.5, "fliplr": 0.5, "mosaic": 1.0},
}
# The public YOLOv5's hyp.scratch-{low,med,high} and hyp.no-augmentation. Medium and high differ there only in copy-paste,
# which needs segmentation masks; here high has rotation instead.
AUGMENTATION_PRESETS = MappingProxyType(
    {
        "none": MappingProxyType(_NONE),
        "low": MappingProxyType(_LOW),
        "medium": MappingProxyType(_LOW | {"scale": 0.9, "mixup": 0.1}),
        "high": MappingProxyType(_LOW | {"scale": 0.9, "mixup": 0.1, "degrees": 5.0}),
    }
)


def is_url(location: str) -> bool:
    """Whether a location has a scheme, as https://host/path and pipe:command have, and is not a path."""
    return re.match(r"pipe:|[a-z][a-z0-9+.-]+://|file:", location) is not None


def _supported_location(location: str) -> str:
    if location.startswith("pipe:"):
        if location.count("{}") != 1:
            raise ValueError(
                "is a command without a place for a file's name; write {} there once, as in "
                "pipe:aws s3 cp s3://bucket/folder/{} -"
            )
    elif is_url(location) and not re.match(r"https?://|file:", location):
        raise ValueError(
            "cannot be opened; expected a path, http://, https://, or a command such as "
            "pipe:aws s3 cp s3://bucket/folder/{} -"
        )
    return location


Location = Annotated[str, AfterValidator(_supported_location)]


class DataSection(Section):
    """The data set."""

    format: Literal["coco", "yolo", "voc", "shards"] = setting("coco")
    """`coco`: one JSON of annotations per split. `yolo`: a data.yaml, and one .txt of `class cx cy w h` per image. `voc`: Pascal VOC, an XML file per image. `shards`: written by `yolo shard`; training images are streamed and need not fit on the machine, validation images are fetched once into data.cache_folder."""
    root: Location = setting("data/demo")
    """The data set's folder, relative to the working directory; the other paths are relative to it. yolo: also the data.yaml itself, if it serves both splits. shards: also http(s)://, or `pipe:` and a shell command that prints the file whose name replaces {}."""
    train: Location = setting("annotations/instances_train.json")
    """coco: the training split's annotation file. yolo: the data.yaml, whose `train:` is used. voc: the name of a list in ImageSets/Main, such as `train`, or a folder of images and XML files. shards: the folder of the training split's shards, or a URL or command as in `root`."""
    val: Location = setting("annotations/instances_val.json")
    """coco: the validation split's annotation file. yolo: the data.yaml, whose `val:` is used. voc, shards: as `train`."""
    images: str = setting("images")
    """coco: the folder of the training images. Not used by the other formats."""
    val_images: Auto | str = setting("auto")
    """coco: the folder of the validation images. `auto` is `images`."""
    augmentation: AugmentationSection = AugmentationSection()
    """How training images are augmented."""
    workers: Auto | CountOrZero = setting("auto", unit="processes per rank")
    """Processes per rank that read and augment images; 0: the rank itself does. `auto` divides the cores among the ranks: up to 8 each on GPUs; on CPUs 1 if a rank has more than one core."""
    shuffle_buffer: Count = setting(256, unit="images per worker")
    """shards: decoded images in memory, at 3 bytes per pixel, from which the next image and a mosaic's others are drawn at random."""
    cache: Literal["ram", "disk", "none"] = setting("ram")
    """Keep images decoded and fitted to `model.image_size`, once per machine: in memory until the run ends, or in a file that later runs reuse. shards: the validation images only."""
    cache_gb: Auto | Gigabytes = setting("auto", unit="GB per machine")
    """Largest size of the cache; images beyond it are decoded each time. `auto` is a quarter of the free memory, or half of the free disk."""
    cache_folder: Auto | str = setting("auto")
    """For cache disk and the validation images of shards: a local folder. `auto` is yolo-images in the user's cache folder."""
    max_bad_share: Share = setting(0.01, unit="share of the images, and of the boxes")
    """Training does not start if more of the images are corrupt or missing, or more of the boxes malformed."""
