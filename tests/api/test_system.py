"""Whether it lives, as clients of the first AppHub ask."""


def test_health_has_all_of_streaming_that_clients_read(api):
    health = api.get("/health").json()

    streaming = health["features"]["streaming"]
    assert (health["status"], streaming["enabled"]) == ("ok", True)
    assert streaming["broker"] == {"configured": False, "reachable": None, "lastCheckedAt": None, "error": None}
    assert streaming["batchers"] == {
        "configured": 0, "running": 0, "failing": 0, "state": "disabled", "connectors": [],
    }  # fmt: skip
    assert streaming["hotBuffer"] == {
        "enabled": False, "state": "disabled", "datasets": 0, "healthy": True,
        "lastRefreshAt": None, "lastIngestAt": None,
    }  # fmt: skip
