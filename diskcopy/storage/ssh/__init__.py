# SPDX-License-Identifier: Apache-2.0
"""Files on another host, over SSH: what matters of them crosses the wire, and nothing else.

file.py         the Images: a remote file or device to read, one in the making
link.py         one connection that comes back when it drops, and goes on where it was
far.py          what a far side does, whichever it is
agent/          a far side with Python: a small program of ours, sent and run there
sftp/           a far side without: SFTP, deeply pipelined
connection.py   paramiko: addresses, the user's ssh_config, keys, host keys
location.py     ssh://[user@]host[:port]/absolute/path
"""
