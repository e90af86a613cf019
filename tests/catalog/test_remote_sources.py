"""A Dockerfile fetches from public hosts, and from those that the operator named."""

import pytest

from apphub_assets.catalog.address import AddressPolicy
from apphub_assets.catalog.dockerfile import DockerfileInvalid
from apphub_assets.catalog.remote_sources import RemoteSourceRefused, RemoteSourceUnreachable, check_remote_sources
from apphub_assets.settings import Settings

PUBLIC = "http://1.1.1.1"
PRIVATE = "http://10.0.0.1"
NOBODY = AddressPolicy()


def refusal(dockerfile: str, policy: AddressPolicy = NOBODY) -> RemoteSourceRefused:
    with pytest.raises(RemoteSourceRefused) as caught:
        check_remote_sources(dockerfile, policy)
    return caught.value


def test_a_refusal_names_line_and_host():
    error = refusal(f"FROM busybox\n\n# two lines further\nADD {PRIVATE}/secret /x\n")

    assert (error.code, error.status) == ("dockerfile_remote_source_refused", 422)
    assert error.extra == {"line": 4, "host": "10.0.0.1"}
    assert "line 4" in error.message
    assert "'10.0.0.1'" in error.message


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "localhost.:8080",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "169.254.169.254",
        "192.168.1.1:5000",
        "[::1]",
        "[::ffff:10.0.0.1]:80",
        "user:secret@10.0.0.1",
        "1.1.1.1@10.0.0.1",
        "1.1.1.1,@10.0.0.1",
        "1.1.1.1:80@10.0.0.1:80",
        "１０.0.0.1",
    ],
)
def test_hosts_inside_are_refused_however_they_are_spelled(host):
    refusal(f"FROM busybox\nADD http://{host}/x /x")


@pytest.mark.parametrize(
    "instruction",
    [
        f"ADD {PRIVATE}/x /x",
        f"add {PRIVATE}/x /x",
        f"  aDd\t{PRIVATE}/x\t/x",
        "ADD https://10.0.0.1/x /x",
        "ADD HTTP://10.0.0.1/x /x",
        "ADD git://10.0.0.1/app.git /x",
        "ADD git@10.0.0.1:app.git /x",
        "ADD ssh://git@10.0.0.1/app.git /x",
        f"ADD {PUBLIC}/x {PRIVATE}/x /x/",
        f"ADD --checksum=sha256:0000 {PRIVATE}/x /x",
        f"ADD --chown=1:1 --link {PRIVATE}/x /x",
        f'ADD ["{PRIVATE}/x", "/x"]',
        f'ADD ["{PRIVATE}/x","/x"]',
        f'ADD --chown=1:1 [ "a" , "{PRIVATE}/x" , "/x" ]',
        'ADD ["\\u0068ttp://10.0.0.1/x", "/x"]',
        'ADD ["http:\\/\\/10.0.0.1/x", "/x"]',
        'ADD ht"tp://"10.0.0.1/x /x',
        "ADD 'http'://10.0.0.1/x /x",
        "ADD h\\ttp://10.0.0.1/x /x",
        f"ONBUILD ADD {PRIVATE}/x /x",
        f"onbuild  add {PRIVATE}/x /x",
        f"ADD \\\n  {PRIVATE}/x \\\n  /x",
        f"ADD \\\n# why\n\n  # and why not\n  {PRIVATE}/x /x",
        f"A\\\nDD {PRIVATE}/x /x",
        "ADD http:/\\\n/10.0.0\\\n.1/x /x",
        f"# escape=`\nADD `\n  {PRIVATE}/x /x",
        f"ADD \\  \r\n{PRIVATE}/x /x\r",
        f"RUN true && \\\n  true\nADD {PRIVATE}/x /x",
    ],
)
def test_an_add_is_seen_in_every_form(instruction):
    assert refusal(f"FROM busybox\n{instruction}\n").extra["host"] == "10.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        f"RUN <<EOF\necho\nEOF\nADD {PRIVATE}/x /x",
        f"RUN <<'\\'\necho\n\\\nADD {PRIVATE}/x /x",
        f"RUN echo $((1<<EOF)) \\\n  && true\nADD {PRIVATE}/x /x\nEOF",
        f"ADD <<EOF {PRIVATE}/x /x/\nhello\nEOF",
    ],
)
def test_a_here_document_hides_nothing(text):
    refusal(f"FROM busybox\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        f"FROM busybox\nRUN echo `date`\nADD {PRIVATE}/x /x",
        f"FROM busybox\nRUN echo \\\\\nADD {PRIVATE}/x /x",
        f"# escape=`\nFROM busybox\nRUN echo \\\nADD {PRIVATE}/x /x",
    ],
)
def test_the_end_of_a_line_that_only_looks_continued_hides_nothing(text):
    assert refusal(text).extra["host"] == "10.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        "FROM 10.0.0.1/a/b",
        "FROM 10.0.0.1:5000/a/b:1@sha256:00 AS base",
        "from --platform=$BUILDPLATFORM 10.0.0.1:5000/a/b",
        "FROM \\\n  10.0.0.1/a",
        'FROM "10.0.0.1"/a',
        "ARG HOST=10.0.0.1\nFROM $HOST:5000/a/b",
        "FROM ${BASE:-10.0.0.1:5000/a/b}",
        "FROM busybox\nFROM 10.0.0.1/a",
        "FROM busybox\nCOPY --from=10.0.0.1:5000/a/b /x /y",
        "FROM busybox\ncopy --chown=1:1 --from=10.0.0.1/a /x /y",
        'FROM busybox\nCOPY --from=10.0.0.1/a ["/x", "/y"]',
        'FROM busybox\nCOPY --chown="--from=a" --from=10.0.0.1/a /x /y',
        "FROM busybox\nONBUILD COPY --from=10.0.0.1/a /x /y",
    ],
)
def test_a_registry_inside_is_refused(text):
    assert refusal(text).extra["host"] == "10.0.0.1"


@pytest.mark.parametrize("registry", ["localhost", "localhost:5000", "LOCALHOST", "[::1]:5000"])
def test_a_registry_is_known_by_what_its_name_looks_like(registry):
    refusal(f"FROM {registry}/a")


@pytest.mark.parametrize(
    "text",
    [
        "FROM $BASE",
        "FROM $HOST/a",
        "FROM python:$VERSION",
        "FROM ${BASE:+10.0.0.1}/a",
        "ARG BASE=1.1.1.1/a\nARG BASE=10.0.0.1/a\nFROM $BASE",
        "FROM ${HOST:-1.1.1.1}/a\nENV HOST=10.0.0.1",
        "FROM busybox\nCOPY --from=$STAGE /x /y",
    ],
)
def test_a_registry_that_hangs_on_an_unknown_variable_is_refused(text):
    assert "variable" in refusal(text).message


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch",
        "FROM org/app:1.2",
        "FROM docker.io/library/busybox:1.36",
        "FROM 1.1.1.1:5000/org/app:$VERSION",
        "ARG VERSION=1.36\nFROM --platform=$BUILDPLATFORM busybox:${VERSION}-musl AS base\nFROM base",
        "FROM nginx:${NGINX:-1.27}",
        "FROM a AS b\nCOPY --from=b /x.y/z /x\nCOPY --from=0 localhost/x /y",
    ],
)
def test_other_images_pass(text):
    check_remote_sources(text, NOBODY)


@pytest.mark.parametrize(
    "text",
    [
        "ARG URL=http://10.0.0.1/x\nADD $URL /x",
        "ENV HOST=10.0.0.1\nADD http://${HOST}/x /x",
        "ENV HOST 10.0.0.1\nADD http://$HOST/x /x",
        'ARG HOST="10.0.0.1"\nADD ["http://$HOST/x", "/x"]',
        "env A=1 HOST=10.0.0.1\nADD http://$HOST:80/x /x",
        "ARG LAST=1\nADD http://10.0.0.$LAST/x /x",
    ],
)
def test_a_variable_is_replaced_by_its_literal_value(text):
    assert refusal(f"FROM busybox\n{text}\n").extra["host"] == "10.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        "ADD $URL /x",
        "ARG URL\nADD $URL /x",
        "ADD http://$HOST/x /x",
        "ADD http://host.$DOMAIN /x",
        "ADD h$REST /x",
        "ADD http:$REST /x",
        "ADD http:/$REST /x",
        "ADD git@$HOST:app.git /x",
        "ADD ${URL:-http://1.1.1.1}/x /x",
        "ADD ${URL:+http://1.1.1.1}/x /x",
        'ADD ["$URL","/x"]',
        'ADD ["$URL", ""]',
        'ADD $URL ""',
        "ADD $URL ,",
        "ADD [x $URL ]",
        "ARG HOST=1.1.1.1\nARG HOST=10.0.0.1\nADD http://$HOST/x /x",
        "ARG INNER=10.0.0.1\nARG HOST=$INNER\nADD http://$HOST/x /x",
        'ARG HOST="1.1.1.1 more"\nADD http://$HOST/x /x',
        'ARG OTHER="a HOST=1.1.1.1"\nADD http://$HOST/x /x',
        'ARG HOST=1.1.1."1"\nADD http://$HOST/x /x',
    ],
)
def test_a_host_that_hangs_on_an_unknown_variable_is_refused(text):
    assert "variable" in refusal(f"FROM busybox\n{text}\n").message


@pytest.mark.parametrize("source", ["http:///x", "http://[::1/x", "http://:80/x", "git@:x"])
def test_a_source_without_a_host_is_refused(source):
    assert "names no host" in refusal(f"ADD {source} /x").message


@pytest.mark.parametrize(
    "text",
    [
        f"ADD {PUBLIC}/x /x",
        f'ADD ["{PUBLIC}/x", "/x"]',
        f"ADD {PUBLIC}/app-$VERSION.tgz?raw=1#top /x",
        f"ARG MIRROR={PUBLIC}\nADD $MIRROR/x /x",
        "ARG HOST='1.1.1.1'\nADD http://$HOST/x /x",
        "ADD app.tar $APP_HOME/",
        'ADD ["app.tar", "$APP_HOME"]',
        "ADD target/$VERSION/app.jar app-$VERSION.jar /app/",
        "ARG JAR=target/app.jar\nADD ${JAR} /app.jar",
        "ADD --chown=$USER app.tar /x",
        "ADD <<EOF /x\nhello http://10.0.0.1\nEOF",
        f"COPY . /x\nRUN wget {PRIVATE}/x",
        f"# ADD {PRIVATE}/x /x",
        f"RUN apk \\\n  add {PRIVATE}/x $A $B",
        f"ADDRESS {PRIVATE}/x /x",
        f"LABEL home={PRIVATE}",
        "",
    ],
)
def test_everything_else_passes(text):
    check_remote_sources(f"FROM busybox\n{text}\n", NOBODY)


def test_an_operator_allows_a_private_host():
    policy = AddressPolicy.of(Settings(git_private_hosts="10.0.0.0/8,localhost"))

    check_remote_sources(f"ADD {PRIVATE}/x http://LOCALHOST.:8080/x /x/", policy)

    assert refusal(f"ADD {PRIVATE}/x http://192.168.0.1/x /x/", policy).extra["host"] == "192.168.0.1"


def test_a_host_that_can_not_be_resolved_may_be_tried_again():
    with pytest.raises(RemoteSourceUnreachable, match=r"line 2: the host 'nowhere\.invalid'") as caught:
        check_remote_sources("FROM busybox\nADD http://nowhere.invalid/x /x", NOBODY)
    assert caught.value.retryable


@pytest.mark.parametrize("text", ["\n" * 20_000, "RUN \\\n" * 5_000, "RUN <<EOF\n" + "\\\n" * 9_000])
def test_what_is_too_long_to_be_read_is_refused(text):
    with pytest.raises(DockerfileInvalid, match="lines"):
        check_remote_sources(text, NOBODY)


@pytest.mark.engine
@pytest.mark.parametrize("instruction", ["ADD http://{}/secret /secret", "FROM {}/org/app", "COPY --from={}/a /x /y"])
def test_a_build_that_fetches_from_inside_is_refused_before_the_engine_hears_of_it(
    catalog, with_settings, make_repository, git_server, instruction
):
    catalog = with_settings(git_private_hosts="")
    dockerfile = f"FROM busybox:1.36\n{instruction.format(git_server.url.removeprefix('http://'))}\n"
    catalog.register("hello", make_repository(files={"Dockerfile": dockerfile}).url)
    catalog.ingest("hello")

    with pytest.raises(RemoteSourceRefused):
        catalog.build("hello")

    build = catalog.show("hello").latest_build
    assert (build.status, build.error_code) == ("failed", "dockerfile_remote_source_refused")
    assert "line 2" in build.error_message
    assert "'127.0.0.1'" in build.error_message
    assert git_server.requests == []
