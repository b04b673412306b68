# SPDX-License-Identifier: Apache-2.0
"""Files on another host, over SSH: what matters of them crosses the wire, and nothing else.

file.py         the Images: a remote file or device to read, one in the making
link.py         one connection that comes back when it drops, and goes on where it was
far.py          what a far side does, whichever it is
agent/          a far side with Python: a small program of ours, sent and run there
sftp/           a far side without: SFTP, deeply pipelined
connection.py   one connection of paramiko's, made and watched over
settings.py     what the user's ssh_config says about a host
known_hosts.py  whether a host's key is the one that is known
login.py        keys, the agent, and questions at a terminal
streams.py      what a connection runs over: TCP, a ProxyCommand, another connection
library.py      paramiko, imported without what it does not need
location.py     ssh://[user@]host[:port]/absolute/path
"""
