"""/builds as clients follow them."""

from contextlib import ExitStack

import httpx

from tests.api.test_errors import register
from tests.fixtures.servers import serving

# More than the worker threads that the server has for all its requests.
FOLLOWERS = 45


def request_build(api) -> str:
    register(api)
    build = api.post("/apps/hello/builds", json={"ref": "main"}).json()["data"]
    return str(build["id"])


def test_many_followers_of_a_silent_build_leave_the_api_to_others(api):
    build_id = request_build(api)

    with serving(api.app) as address, httpx.Client(base_url=f"http://{address}", timeout=10) as client:
        with ExitStack() as following:
            limits = httpx.Limits(max_connections=FOLLOWERS)
            follower = following.enter_context(httpx.Client(base_url=client.base_url, limits=limits, timeout=10))
            for _ in range(FOLLOWERS):
                url = f"/builds/{build_id}/logs"
                following.enter_context(follower.stream("GET", url, params={"follow": True}))
            answer = client.get(f"/builds/{build_id}")
        client.post(f"/builds/{build_id}/cancel")

    assert answer.json()["data"]["status"] == "pending"


def test_a_follower_is_let_go_when_the_build_ends(api):
    build_id = request_build(api)
    api.post(f"/builds/{build_id}/cancel")

    assert api.get(f"/builds/{build_id}/logs", params={"follow": True}).text == ""
