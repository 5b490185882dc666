"""Stand-ins for `sshd`, `ssh` and `pdsh` on emulated hosts: they run commands there, over the hosts' own network.

Nothing is encrypted and nobody is asked who they are, since nothing outside reaches these hosts. What a link that is cut
does to a connection is what it does to OpenSSH's.
"""

from pathlib import Path

PROGRAMS = Path(__file__).parent / "bin"
"""To stand first on PATH."""
