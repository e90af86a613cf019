"""POST /datasets/{slug}/ingest (contract C.2)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from apphub_api.deps import Caller, Correlation, Platform, requires
from apphub_api.idempotency import REPLAYED
from apphub_api.limits import BodyTooLarge
from apphub_api.platform import Platform as PlatformState
from apphub_assets.identity.spec import Identity, Scope
from apphub_assets.timestore.errors import InvalidBody, LakeUnavailable
from apphub_assets.timestore.ingest.binary import Body
from apphub_assets.timestore.ingest.intake import Delivery, time_range
from apphub_assets.timestore.ingest.service import (
    LONGEST_KEY,
    Form,
    IngestAnswer,
    answer_of,
    caller_of,
    form_of,
    pairs_of,
    read_file,
    read_rows,
    staging_folder,
)
from apphub_assets.timestore.ingest.sources import File
from apphub_assets.timestore.ingest.writing import Written
from apphub_assets.timestore.spec import parse_fields

router = APIRouter(tags=["timestore"])
Warnings = tuple[str, ...]
PIECE_BYTES = 2**20

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=LONGEST_KEY,
        description=(
            "Names the batch within its dataset for as long as its rows are there, and APPHUB_BATCH_RETENTION_DAYS"
            " longer: sent again it is answered again, and written once."
        ),
    ),
]


async def read_delivery(
    slug: str,
    caller: Caller,
    correlation: Correlation,
    idempotency_key: Key = None,
    partition_key: Annotated[
        list[str] | None, Query(alias="partitionKey", description="name=value, repeatable")
    ] = None,
    attribute: Annotated[list[str] | None, Query(description="name=value")] = None,
    start: datetime | None = None,
    end: datetime | None = None,
    dataset_name: Annotated[str | None, Query(alias="datasetName", max_length=160)] = None,
    storage_target_id: Annotated[str | None, Query(alias="storageTargetId")] = None,
    fields: Annotated[str | None, Query(description="JSON array of {name, type}; default: the dataset's")] = None,
) -> Delivery:
    """What the query and the headers say of a batch whose body is nothing but rows."""
    if (start is None) != (end is None):
        raise InvalidBody("give both start and end of the window, or neither: then it is that of the rows")
    return Delivery(
        slug=slug,
        fields=None if fields is None else parse_fields(_json_array(fields), "/fields"),
        partition_key=pairs_of(partition_key or [], "/partitionKey"),
        attributes=pairs_of(attribute or [], "/attribute"),
        time_range=time_range(start, end, "") if start and end else None,
        key=idempotency_key,
        dataset_name=dataset_name,
        storage_target_id=storage_target_id,
        caller=caller_of(caller, correlation),
    )


@router.post("/datasets/{slug}/ingest", status_code=201, dependencies=[requires(Scope.TIMESTORE_WRITE)])
async def ingest(
    request: Request,
    response: Response,
    platform: Platform,
    caller: Caller,
    delivery: Annotated[Delivery, Depends(read_delivery)],
) -> IngestAnswer:
    """Write a batch; the answer comes when it is durable and every process can read it.

    The body is JSON as in the contract, or by `Content-Type` NDJSON, CSV, Parquet or an Arrow stream; of those the
    query says what JSON has beside its rows.
    """
    form = form_of(request.headers.get("content-type"))
    if form.is_binary:
        written, warnings = await _from_disk(request, platform, caller, delivery, form)
    else:
        written, warnings = await _from_memory(request, platform, caller, delivery, form)
    if written.replayed:
        response.headers[REPLAYED] = "true"
    return answer_of(platform.settings, written, warnings)


async def _from_memory(
    request: Request, platform: PlatformState, caller: Identity, delivery: Delivery, form: Form
) -> tuple[Written, Warnings]:
    with platform.bodies.holding() as take:
        body = bytearray()
        async for chunk in _chunks(request, platform.settings.ingest_max_json_bytes):
            take(len(chunk))
            body += chunk
        async with platform.parsing:
            batch, warnings = await run_in_threadpool(
                read_rows, platform.database, caller, delivery, form, bytes(body), platform.settings
            )
    if isinstance(batch, Written):
        return batch, warnings
    return await asyncio.wrap_future(platform.writer.submit(batch)), warnings


async def _from_disk(
    request: Request, platform: PlatformState, caller: Identity, delivery: Delivery, form: Form
) -> tuple[Written, Warnings]:
    """Big ones are read by DuckDB from the file, so it stays until they are written."""
    settings = platform.settings
    with NamedTemporaryFile(dir=staging_folder(settings)) as file:
        try:
            digest = await _put_aside(file, _pieces(_chunks(request, settings.ingest_max_bytes)))
        except OSError as error:
            raise LakeUnavailable(f"the body can't be put aside: {error.strerror}", retry_after=30) from error
        body = Body(Path(file.name), form is Form.ARROW, digest)
        async with platform.unpacking:
            batch, warnings = await run_in_threadpool(read_file, platform.database, caller, delivery, body, settings)
            if isinstance(batch, Written):
                return batch, warnings
            if isinstance(batch.source, File):
                return await run_in_threadpool(platform.writer.write_now, batch), warnings
    return await asyncio.wrap_future(platform.writer.submit(batch)), warnings


async def _put_aside(file: IO[bytes], pieces: AsyncIterator[bytes]) -> str:
    """Write the body to the file, each piece while the next arrives; returns its SHA-256."""
    digest = hashlib.sha256()

    def put(piece: bytes) -> None:
        file.write(piece)
        digest.update(piece)

    last: asyncio.Future[None] | None = None
    try:
        async for piece in pieces:
            if last is not None:
                await last
            last = asyncio.ensure_future(run_in_threadpool(put, piece))
    finally:
        if last is not None:
            await last
    file.flush()
    return digest.hexdigest()


async def _chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > limit:
                raise BodyTooLarge(f"the body is larger than {limit} bytes; send it in parts, each under its own key")
            yield chunk
    except ClientDisconnect:
        raise InvalidBody("the body did not arrive whole; send it again") from None


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces that are worth the way to another thread."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        if len(gathered) >= PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _json_array(given: str) -> list[Any]:
    try:
        found = orjson.loads(given)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, list):
        raise InvalidBody("fields must be a JSON array of {name, type}")
    return found
