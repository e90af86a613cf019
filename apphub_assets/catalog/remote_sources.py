"""Remote sources in Dockerfiles: what ADD, FROM and `COPY --from` name is fetched by the container engine itself.

It does so from its host's network, and speaks plain HTTP to a registry on loopback. So their hosts must obey the rules
for the hosts of repositories. What this reads is never less than what an engine reads, whatever that makes of quotes,
escapes, JSON and here-documents: it would rather see an instruction too many. What no Dockerfile shows it can't see:
redirects, and the ONBUILD and ENV that a base image brings along.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from apphub_assets.catalog.address import Address, AddressPolicy, AddressRefused, RepositoryUnreachable, resolve
from apphub_assets.catalog.dockerfile import MAX_LINES, DockerfileInvalid
from apphub_assets.errors import Refused, Unavailable

MAX_CONTINUED = 1000

# Engines differ on where a here-document ends, and on what such a backslash or backtick continues.
UNCLEAR = re.compile(r"<<|(?:\\\\|`)[ \t\r]*$|^\s*#\s*escape\s*=", re.IGNORECASE)
CONTINUED = re.compile(r"[\\`][ \t\r]*$")
ADD = re.compile(r"\s*(?:ONBUILD\s+)*ADD\s(.*)", re.IGNORECASE | re.DOTALL)
FROM = re.compile(r"\s*FROM\s+(?:--\S*\s+)*(\S+)", re.IGNORECASE)
COPY = re.compile(r"\s*(?:ONBUILD\s+)*COPY\s(.*)", re.IGNORECASE | re.DOTALL)
COPY_FROM = re.compile(r"--from=(\S+)")
DEFINITION = re.compile(r"\s*(?:ONBUILD\s+)*(?:ARG|ENV)\s+(.*)", re.IGNORECASE | re.DOTALL)
PAIR = re.compile(r"""(\w+)=("[^"]*"|'[^']*'|\S*)""")
LITERAL = re.compile(r"""(["']?)([^"'$\\`\s]{1,1024})\1""")
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
DEFAULT = re.compile(r"\$\{(\w+):?-([^${}]*)\}")
JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
BETWEEN = re.compile(r"[\s,]+", re.ASCII)
STARTS = ("http://", "https://", "git://", "ssh://", "ftp://", "git@")
REMOTE = re.compile(rf"(?:{'|'.join(STARTS)})(?P<authority>[^\s/?#]*)", re.IGNORECASE | re.ASCII)
UNKNOWN = "has a variable without a single literal value where its host may be"
QUOTES = str.maketrans("", "", "\"'\\`")


class RemoteSourceRefused(Refused):
    code, title = "dockerfile_remote_source_refused", "Remote source of a Dockerfile refused"


class RemoteSourceUnreachable(Unavailable):
    code, title = "dockerfile_remote_source_unreachable", "Remote source of a Dockerfile unreachable"


def check_remote_sources(text: str, policy: AddressPolicy) -> None:
    """Resolve the host of every remote source and of every registry, and see that it may be reached.

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
            _check_add(line, _filled(_plain(match[1]), values), policy)
        for image in _images(_plain(instruction)):
            # Nothing outside of the file can set these variables: one that is not defined in it has its default.
            name = DEFAULT.sub(lambda found: found[0] if found[1] in values else found[2], image)
            _check_image(line, _filled(name, values), policy)


def _instructions(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Line number and text of all that may be an instruction: with an unclear line, one may begin anywhere."""
    if len(lines) > MAX_LINES:
        raise DockerfileInvalid(f"the Dockerfile has {len(lines)} lines; at most {MAX_LINES} are read")
    unclear = any(map(UNCLEAR.search, lines))
    start = 0
    while start < len(lines):
        text, end = _joined(lines, start)
        yield start + 1, text
        start = start + 1 if unclear else end


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


def _variables(instructions: Iterable[str]) -> dict[str, str | None]:
    """Variables of ARG and ENV: None for one that has not one literal value in the whole file."""
    found: dict[str, set[str]] = {}
    for instruction in instructions:
        if match := DEFINITION.match(instruction):
            for name, value in _definitions(match[1].strip()):
                found.setdefault(name, set()).add(value)
    literals = {name: LITERAL.fullmatch(min(values)) if len(values) == 1 else None for name, values in found.items()}
    return {name: literal and literal[2] for name, literal in literals.items()}


def _filled(text: str, values: Mapping[str, str | None]) -> str:
    return VARIABLE.sub(lambda name: values.get(name[1] or name[2]) or name[0], text)


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
            raise _refused(line, source, UNKNOWN)
    for match in REMOTE.finditer(arguments):
        _check_host(line, match["authority"], policy)


def _images(instruction: str) -> list[str]:
    """The images or stages that an instruction names."""
    if match := FROM.match(instruction):
        return [match[1]]
    match = COPY.match(instruction)
    return COPY_FROM.findall(match[1]) if match else []


def _check_image(line: int, name: str, policy: AddressPolicy) -> None:
    """Check the registry: what is before the first slash, if an engine takes that for a host and not for a folder."""
    first, slash, _ = name.partition("/")
    if "$" in first:
        raise _refused(line, name, UNKNOWN)
    is_host = first == "localhost" or first != first.lower() or "." in first or ":" in first
    if slash and is_host and first != "docker.io":
        _check_host(line, first, policy)


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
            f"Dockerfile line {line}: the host {host[:80]!r} can't be resolved; check its name"
        ) from error


def _refused(line: int, host: str, why: str) -> RemoteSourceRefused:
    return RemoteSourceRefused(
        f"Dockerfile line {line}: it fetches from {host[:80]!r}, which {why}. Put what it needs into the repository or "
        "on a public host, or ask an operator to allow the host in APPHUB_GIT_PRIVATE_HOSTS",
        line=line,
        host=host[:80],
    )
