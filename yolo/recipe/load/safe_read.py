"""Reading a file that anybody may have made: a regular one, in whole, and no larger than its kind has reason to be.

A FIFO or a terminal would be waited for without end, and /dev/zero read without end.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MB = 10**6
MOST_RECIPE_BYTES = MB // 5
"""A recipe is a page of text, a profile of a cluster some; parsing takes about 10 seconds a MB."""
MOST_HOSTFILE_BYTES = MB
"""Of 20,000 hosts."""
MOST_LABEL_BYTES = 64 * MB
"""Of the text file of one image, or of a list of images."""
MOST_INDEX_BYTES = 256 * MB
"""Of each of the two files that tell what is in a split's shards; those of a billion images."""
MOST_ANNOTATION_BYTES = 16_000 * MB
"""COCO's have 450 MB, the largest public ones ten times that."""
MOST_IMAGE_BYTES = 1_000 * MB
"""Of an image as it lies in its file."""


def open_regular(path: Path) -> BinaryIO:
    """A file to be read as bytes. OSError, with its name, where there is none, or where it is anything but a file."""
    try:
        # Without O_NONBLOCK it is the opening of a FIFO that waits.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # it has a NUL in it, say
        reason = f"a name that no file can have: {error}"
        raise OSError(errno.EINVAL, reason, ascii(str(path))) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """A whole file of at most so many bytes. OSError as of `open_regular`, and where it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"has {size} bytes; expected at most {most}", str(path))
        try:
            content = file.read(size + 1)
        except OSError as error:  # which names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
    if len(content) > size:  # as /proc's, which say that they are empty
        raise OSError(errno.EINVAL, f"says that it has {size} bytes, and has more", str(path))
    return content


def read_text(path: Path, most: int) -> str:
    """A whole file as text, whether or not it begins with a byte order mark. UnicodeDecodeError where it is not UTF-8."""
    return read_bytes(path, most).decode("utf-8-sig")
