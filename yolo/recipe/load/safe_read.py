"""Read untrusted files: only regular files, and only up to a size that is plausible for their kind.

Reading a FIFO or a terminal could block forever, and reading /dev/zero never ends.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MB = 10**6
MOST_RECIPE_BYTES = MB // 5
"""A recipe is one page of text, a cluster profile some; parsing takes about 10 seconds per MB."""
MOST_HOSTFILE_BYTES = MB
"""20,000 hosts."""
MOST_LABEL_BYTES = 64 * MB
"""The text file of one image, or a list of images."""
MOST_XML_BYTES = 4 * MB
"""The XML file of one image, or a list of class names."""
MOST_INDEX_BYTES = 256 * MB
"""Each of the two index files of a split's shards, for a billion images."""
MOST_ANNOTATION_BYTES = 16_000 * MB
"""COCO's have 450 MB, the largest public data sets ten times that."""
MOST_IMAGE_BYTES = 1_000 * MB
"""An image file, not decoded."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read bytes. Raises OSError, with its name, if it does not exist or is not a regular file."""
    try:
        # Without O_NONBLOCK, opening a FIFO blocks.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # such as a NUL in it
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
    """Read a file of at most `most` bytes. Raises OSError as `open_regular` does, and if it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"has {size} bytes; expected at most {most}", str(path))
        try:
            content = file.read(size + 1)
        except OSError as error:  # its own message has no file name
            raise OSError(error.errno, error.strerror, str(path)) from error
    if len(content) > size:  # /proc's files report size 0
        raise OSError(errno.EINVAL, f"reports {size} bytes, and has more", str(path))
    return content


def read_text(path: Path, most: int) -> str:
    """`read_bytes` as text, without a byte order mark. Raises UnicodeDecodeError if it is not UTF-8."""
    return read_bytes(path, most).decode("utf-8-sig")
