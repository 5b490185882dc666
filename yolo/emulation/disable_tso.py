"""Turn off an interface's TCP segmentation offload: `python -m yolo.emulation.disable_tso eth0`.

A veth pair passes on segments of up to 64 KB, and counts one header for each. Without the offload, the kernel cuts them
into frames as late as it can: after the shaper, which counts every frame's header, and before the counters. (Requesting
single frames from TCP by `gso_max_segs 1` gives the same bytes, and costs 8 times the CPU time.)
"""

import array
import fcntl
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
ETHTOOL_SET_TCP_SEGMENTATION = 0x1F
"""ETHTOOL_STSO of linux/ethtool.h."""


def turn_off(interface: str) -> None:
    """Turn TCP segmentation offload off. Raises OSError if the kernel refuses."""
    value = array.array("I", [ETHTOOL_SET_TCP_SEGMENTATION, 0])
    address, _ = value.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), address))


if __name__ == "__main__":
    turn_off(sys.argv[1])
