# SPDX-License-Identifier: Apache-2.0
"""The far side of SSH without Python: SFTP version 3, many large requests on their way at a time.

far.py        one remote file, as every far side has it
client.py     the conversation: requests of many threads out, their replies to who waits
replies.py    a stream of bytes cut into replies, each one's data laid where they belong
device.py    the size of a block device, which SFTP does not tell
protocol.py   the packets: draft-ietf-secsh-filexfer-02, and OpenSSH's extensions (its PROTOCOL file)
"""
