"""How long the jobs of a replica wait for what: no setting, but tests of something else have other values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class JobTiming:
    """All in seconds."""

    client_s: float = 0.8
    """The longest wait for Redis on a client's behalf: whoever asks learns within a second that it is gone."""
    worker_s: float = 3.0
    """The same for a worker; longer than `read_s`."""
    read_s: float = 1.0
    """How long a read waits for a picture, and so how often a worker with nothing to do looks for lapsed claims."""
    listen_s: float = 1.0
    """How long a read waits for the end of a job."""
    listener_s: float = 2.0
    """The longest wait for that read's answer; longer than `listen_s`."""
    recheck_s: float = 5.0
    """Who waits for a job asks Redis this often all the same: what was announced while it restarted, nobody heard."""
    look_s: float = 1.0
    """Between two looks for lapsed claims."""
    renew_s: float = 1.0
    """Or a fifth of the lease, if that is less."""
    settle_s: float = 3.0
    """Or the lease. After an outage of Redis every claim looks silent: by then whoever lives has renewed its own."""
    sweep_s: float = 2.0
    give_back_s: float = 2.0
    """For giving back, when a worker stops, what it has not done."""


SHIPPED = JobTiming()
