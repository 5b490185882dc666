"""Stand-ins for `sshd`, `ssh` and `pdsh`: they run commands on emulated hosts over the hosts' own network.

There is no encryption and no authentication, since nothing outside reaches these hosts. A cut link has the same effect on a
connection as with OpenSSH.
"""
