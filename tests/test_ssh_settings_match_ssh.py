# SPDX-License-Identifier: Apache-2.0
"""An ssh_config means to us what it means to ssh, which prints what it reads in one (`ssh -G`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from diskcopy.storage.ssh.settings import Settings, read

CONFIGS = {
    "nothing": "",
    "a host": "Host kool\n HostName kool.example.org\n User rich\n Port 2222\n",
    "the first counts": "Host kool\n Port 1\nHost *\n Port 2\n User all\nHost kool\n User late\n",
    "patterns": "Host !kool k*\n Port 1\nHost ko?l,x\n Port 2\nHost ko?l y\n Port 3\n",
    "equals and quotes": 'Host=kool\nHostName = "kool.example.org"\nUserKnownHostsFile "/a b" /c\n',
    "tokens": "Host kool\n HostName %h.org\n ProxyCommand nc %h:%p %r\n User rich\n IdentityFile ~/%r-%h\n",
    "files": "IdentityFile ~/.ssh/one\nIdentityFile /two\nIdentitiesOnly yes\nGlobalKnownHostsFile /three\n",
    "strict": "StrictHostKeyChecking yes\nHashKnownHosts yes\nHostKeyAlias cool\n",
    "accept-new": "StrictHostKeyChecking accept-new\nBatchMode yes\nCompression yes\n",
    "no": "StrictHostKeyChecking no\nAddressFamily inet6\n",
    "times": "ConnectTimeout 1m30\nServerAliveInterval 2m\nServerAliveCountMax 7\n",
    "jumps": "Host kool\n ProxyJump a@gate:2,other\n ProxyCommand nc %h\n",
    "no jumps": "Host kool\n ProxyJump none\nHost *\n ProxyJump gate\n",
    "no command": "Host kool\n ProxyCommand none\nHost *\n ProxyCommand nc %h %p\n",
    "matches": "Match host kool user rich\n Port 1\nMatch originalhost kool\n Port 2\nMatch all\n Port 3\n",
    "included": "Include {folder}/one\nHost kool\n Port 5\n",
    "included before": "Host kool\n Include {folder}/one\n Port 5\nHost *\n Port 6\n",
    "included elsewhere": "Host other\n Include {folder}/one\n Port 5\nHost *\n Port 6\n",
    "in a match": "Match originalhost k*\n Include {folder}/one {folder}/*o\n Port 5\nHost *\n Port 6\n",
    "included twice deep": "Host k*\n Include {folder}/three\nHost kool\n Port 5\n",
}
INCLUDED = {
    "one": "User included\nHost kool\n HostName included.example.org\nHost *\n ServerAliveInterval 5\n",
    "two": "Host !kool *\n Port 7\nMatch all\n ConnectTimeout 3\n",
    "three": "Host ko*\n Include {folder}/one\n ServerAliveCountMax 9\nHost x*\n Port 8\n",
}


@pytest.fixture(params=CONFIGS, ids=list(CONFIGS))
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name, text in INCLUDED.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
    path = tmp_path / "config"
    path.write_text(CONFIGS[request.param].format(folder=tmp_path))
    return path


def ssh_reads(config: Path, *options: str) -> dict[str, list[str]]:
    command = ["ssh", "-G", "-F", str(config), *options, "kool"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def strictness(settings: Settings) -> list[str]:
    if settings.strict:
        return ["true", "ask"]
    return ["accept-new"] if settings.remember else ["false"]


@pytest.mark.parametrize("address", ["kool", "rich@kool:77"])
def test_what_is_read_is_what_ssh_reads(config: Path, address: str) -> None:
    given = address != "kool"
    settings = read("kool", "rich" if given else None, 77 if given else None, str(config))
    theirs = ssh_reads(config, *(["-l", "rich", "-p", "77"] if given else []))
    assert [settings.host] == theirs["hostname"]
    assert [settings.user] == theirs["user"]
    assert [str(settings.port)] == theirs["port"]
    assert [",".join(settings.jump)] == [one for one in theirs.get("proxyjump", [""]) if one != "none"]
    # ssh does not expand the tokens of a command before it runs it.
    command = theirs.get("proxycommand", ["none"])[0]
    tokens = {"%h": settings.host, "%p": str(settings.port), "%r": settings.user}
    for token, value in tokens.items():
        command = command.replace(token, value)
    assert (settings.proxy_command or "none") == command
    if settings.explicit:
        home = str(Path.home())
        files = [one.replace("~", home) for one in theirs["identityfile"]]
        for token, value in tokens.items():
            files = [one.replace(token, value) for one in files]
        assert list(settings.identities) == files
    assert settings.identities_only == (theirs["identitiesonly"] == ["yes"])
    assert [" ".join(settings.global_known)] == theirs["globalknownhostsfile"]
    assert [" ".join(settings.user_known)] == theirs["userknownhostsfile"]
    assert theirs["stricthostkeychecking"][0] in strictness(settings)
    assert settings.hashed == (theirs["hashknownhosts"] == ["yes"])
    assert settings.known_as == theirs.get("hostkeyalias", [None])[0]
    assert settings.compression == (theirs["compression"] == ["yes"])
    assert settings.ask == (theirs["batchmode"] == ["no"])
    assert [settings.family] == theirs["addressfamily"]
    if theirs["connecttimeout"] != ["none"]:
        assert [f"{settings.timeout:g}"] == theirs["connecttimeout"]
    # Without any ssh has none, and Debian's 300 where nobody can be asked.
    if theirs["serveraliveinterval"][0] not in ("0", "300"):
        assert [f"{settings.alive_interval:g}"] == theirs["serveraliveinterval"]
        assert settings.alive == settings.alive_interval * int(theirs["serveralivecountmax"][0])
