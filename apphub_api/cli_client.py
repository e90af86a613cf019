"""The command line's way to the API: one client, its errors as sentences and exit codes."""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import httpx
import typer

DEFAULT_URL = "http://127.0.0.1:4000"


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    AUTH = 5
    TIMEOUT = 6


EXIT_OF_STATUS = {
    400: Exit.USAGE,
    401: Exit.AUTH,
    403: Exit.AUTH,
    404: Exit.NOT_FOUND,
    408: Exit.TIMEOUT,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
    422: Exit.USAGE,
    504: Exit.TIMEOUT,
}


class Client:
    """Calls the API at APPHUB_URL with APPHUB_TOKEN; a refusal ends the command with its reason."""

    def __init__(self, timeout: float = 30) -> None:
        self.url = os.environ.get("APPHUB_URL", DEFAULT_URL).rstrip("/")
        token = os.environ.get("APPHUB_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)
        atexit.register(self.http.close)

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Any = None) -> Any:
        return self._call("POST", path, json=body if body is not None else {})

    def put(self, path: str, body: Any, **headers: str) -> Any:
        return self._call("PUT", path, json=body, headers=headers)

    def patch(self, path: str, body: Any) -> Any:
        return self._call("PATCH", path, json=body)

    def delete(self, path: str, **params: Any) -> Any:
        return self._call("DELETE", path, params=params)

    @contextmanager
    def stream(self, path: str, **params: Any) -> Iterator[Iterator[str]]:
        """Text as it comes, without a deadline."""
        with self.opened("GET", path, params=params, timeout=None) as response:
            yield response.iter_text()

    @contextmanager
    def opened(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """An answer whose body is still to be read."""
        with self.reachable(), self.http.stream(method, path, **arguments) as response:
            if response.is_error:
                response.read()
                self.refuse(response)
            yield response

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        with self.reachable():
            response = self.http.request(method, path, **arguments)
        if response.is_error:
            self.refuse(response)
        return response.json() if response.content else None

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """End the command, saying so, when the API can't be reached."""
        try:
            yield
        except httpx.TimeoutException:
            fail(f"{self.url} did not answer in time", Exit.TIMEOUT)
        except httpx.TransportError as error:
            fail(f"no AppHub at {self.url}: {error}\nStart one with `apphub up`, or set APPHUB_URL.", Exit.FAILED)

    def refuse(self, response: httpx.Response) -> NoReturn:
        """End the command with the API's reason."""
        problem = problem_of(response)
        places = [f"  {each['pointer']}: {each['detail']}" for each in problem.get("errors", [])]
        lines = [problem["detail"], *(places if len(places) > 1 else [])]
        fail("\n".join(lines), EXIT_OF_STATUS.get(response.status_code, Exit.FAILED))


def problem_of(response: httpx.Response) -> dict[str, Any]:
    """The problem document of a refusal; one that is not AppHub's has just `detail`."""
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        document: dict[str, Any] = response.json()
        return document
    return {"detail": f"{response.status_code} {response.text[:500]}"}


def fail(message: str, code: Exit) -> NoReturn:
    """Say why on standard error and end the command."""
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(code)
