"""Keys in Redis stay what they were in version 0.1.0: what is queued or kept there is found after an update."""

from serve_app.redis.keys import PREDICTIONS, jobs_of


def test_keys_begin_as_they_did_in_version_0_1_0() -> None:
    assert jobs_of("model") == "serve-app:{jobs:model}:"
    assert PREDICTIONS == "serve_app:prediction:1:"
