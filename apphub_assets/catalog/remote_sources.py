"""Remote sources in Dockerfiles: `ADD http://…` is fetched by the container engine itself, from its host's network.

So their hosts must obey the rules for the hosts of repositories. What this reads is never less than what an engine
reads, whatever that makes of quotes, escapes, JSON and here-documents: it would rather see an ADD too many. What no
Dockerfile shows it can't see: redirects, and the ONBUILD and ENV that a base image brings along.
"""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from apphub_assets.catalog.address import Address, AddressPolicy, AddressRefused, RepositoryUnreachable, resolve
from apphub_assets.catalog.dockerfile import MAX_LINES, DockerfileInvalid
from apphub_assets.errors import Refused, Unavailable

MAX_CONTINUED = 1000

CONTINUED = re.compile(r"[\\`][ \t\r]*$")
ADD = re.compile(r"\s*(?:ONBUILD\s+)*ADD\s(.*)", re.IGNORECASE | re.DOTALL)
DEFINITION = re.compile(r"\s*(?:ONBUILD\s+)*(?:ARG|ENV)\s+(.*)", re.IGNORECASE | re.DOTALL)
PAIR = re.compile(r"""(\w+)=("[^"]*"|'[^']*'|\S*)""")
LITERAL = re.compile(r"""(["']?)([^"'$\\`\s]{1,1024})\1""")
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
BETWEEN = re.compile(r"[\s,]+", re.ASCII)
STARTS = ("http://", "https://", "git://", "ssh://", "ftp://", "git@")
REMOTE = re.compile(rf"(?:{'|'.join(STARTS)})(?P<authority>[^\s/?#]*)", re.IGNORECASE | re.ASCII)
QUOTES = str.maketrans("", "", "\"'\\`")


class RemoteSourceRefused(Refused):
    code, title = "dockerfile_remote_source_refused", "Remote source of a Dockerfile refused"


class RemoteSourceUnreachable(Unavailable):
    code, title = "dockerfile_remote_source_unreachable", "Remote source of a Dockerfile unreachable"


def check_remote_sources(text: str, policy: AddressPolicy) -> None:
    """Resolve the host of every remote source of an ADD, and see that it may be reached.

    Raises:
        RemoteSourceRefused: a host is not public and not allowed by `git_private_hosts`, or hangs on a variable that
            has no single literal value; with `line` and `host`.
        RemoteSourceUnreachable: a host can't be resolved now.
        DockerfileInvalid: too long to be read in full.
    """
    instructions = list(_instructions(text.removeprefix("\ufeff").split("\n")))
    values = _variables(instruction for _, instruction in instructions)
    for line, instruction in instructions:
        if match := ADD.match(instruction):
            plain = VARIABLE.sub(lambda name: values.get(name[1] or name[2], name[0]), _plain(match[1]))
            _check_add(line, plain, policy)


def _instructions(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Line number and text of all that may be an instruction.

    Engines differ on where a here-document ends: with one in the file, an instruction may begin on any line.
    """
    if len(lines) > MAX_LINES:
        raise DockerfileInvalid(f"the Dockerfile has {len(lines)} lines; at most {MAX_LINES} are read")
    here_documents = any("<<" in line for line in lines)
    start = 0
    while start < len(lines):
        text, end = _joined(lines, start)
        yield start + 1, text
        start = start + 1 if here_documents else end


def _joined(lines: list[str], start: int) -> tuple[str, int]:
    """The line at `start` with those that continue it, and the index after them."""
    if lines[start].lstrip().startswith("#"):
        return "", start + 1
    text = ""
    for number in range(start, len(lines)):
        line = lines[number]
        if number > start and (not line.strip() or line.lstrip().startswith("#")):
            continue
        if number - start > MAX_CONTINUED:
            raise DockerfileInvalid(f"line {start + 1}: the instruction goes over more than {MAX_CONTINUED} lines")
        text += CONTINUED.sub("", line)
        if not CONTINUED.search(line):
            return text, number + 1
    return text, len(lines)


def _variables(instructions: Iterable[str]) -> dict[str, str]:
    """Variables of ARG and ENV that have one literal value in the whole file."""
    found: dict[str, set[str]] = {}
    for instruction in instructions:
        if match := DEFINITION.match(instruction):
            for name, value in _definitions(match[1].strip()):
                found.setdefault(name, set()).add(value)
    literals = {name: LITERAL.fullmatch(min(values)) for name, values in found.items() if len(values) == 1}
    return {name: literal[2] for name, literal in literals.items() if literal}


def _definitions(text: str) -> list[tuple[str, str]]:
    """`NAME=value …`, or the old `NAME value`."""
    name, _, value = text.partition(" ")
    return PAIR.findall(text) if "=" in name else [(name, value)] if value else []


def _plain(text: str) -> str:
    """The arguments with nothing left to hide behind: no quotes, no escapes."""
    return JSON_ESCAPE.sub(lambda code: chr(int(code[1], 16)), text.strip()).translate(QUOTES)


def _check_add(line: int, arguments: str, policy: AddressPolicy) -> None:
    inner = arguments[1:].removesuffix("]") if arguments.startswith("[") else arguments
    *sources, _destination = BETWEEN.split(inner)
    for source in sources:
        if _hides_host(source):
            raise _refused(line, source, "has a variable without a single literal value where its host may be")
    for match in REMOTE.finditer(arguments):
        _check_host(line, match["authority"], policy)


def _hides_host(source: str) -> bool:
    """Whether what a variable stands for may be a scheme or a host."""
    prefix, dollar, _ = source.lower().partition("$")
    return bool(dollar) and any(
        start.startswith(prefix) or (prefix.startswith(start) and "/" not in prefix[len(start) :]) for start in STARTS
    )


def _check_host(line: int, authority: str, policy: AddressPolicy) -> None:
    try:
        host = (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        host = ""
    if not host:
        raise _refused(line, authority, "names no host")
    try:
        resolve(Address("http", host, 80, "/"), policy)
    except AddressRefused as error:
        raise _refused(line, host, "is not at a public address") from error
    except RepositoryUnreachable as error:
        raise RemoteSourceUnreachable(
            f"Dockerfile line {line}: the host {host[:80]!r} of an ADD can't be resolved; check its name"
        ) from error


def _refused(line: int, host: str, why: str) -> RemoteSourceRefused:
    return RemoteSourceRefused(
        f"Dockerfile line {line}: ADD fetches from {host[:80]!r}, which {why}. Put the file into the repository, "
        "or ask an operator to allow the host in APPHUB_GIT_PRIVATE_HOSTS",
        line=line,
        host=host[:80],
    )
