"""Where predictions are kept, as written under `cache:` of the `model` application's args in configs/*.yaml."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serve_app.errors import Fault, SetupError
from serve_app.redis.address import VARIABLE

StoreKind = Literal["redis", "memory", "off"]


def _off_as_a_word(given: object) -> object:
    return "off" if given is False else given  # what YAML makes of a bare off


class CacheSettings(BaseModel):
    """Where predictions are kept, so that the same bytes are not computed twice."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    store: Annotated[Literal["auto", "redis", "memory", "off"], BeforeValidator(_off_as_a_word)] = Field(
        "auto",
        description="Where predictions are kept. `redis`: at REDIS_URL, for all replicas. `memory`: in each replica. "
        "`auto`: redis with REDIS_URL, else off.",
    )
    ttl_s: float = Field(86_400.0, ge=1, le=31_536_000, description="How long a prediction is kept.")
    max_entries: int = Field(
        10_000,
        ge=1,
        description="Most predictions in the memory of a replica, about 2 kB each, with `memory`. Redis is bounded by "
        "its own `maxmemory`.",
        json_schema_extra={"unit": "predictions"},
    )
    timeout_s: float = Field(0.05, gt=0, le=1, description="Longest wait for Redis; then the picture is computed.")

    def kind_with(self, redis_url: str | None) -> StoreKind:
        """Return where predictions are kept beside a Redis at `redis_url`, if any. Raises SetupError without one."""
        if self.store == "auto":
            return "redis" if redis_url else "off"
        if self.store == "redis" and redis_url is None:
            what = f"redis needs {VARIABLE}=redis://host:6379/0 in the environment"
            raise SetupError(Fault("cache.store", what, "set it, or write `store: memory`"))
        return self.store
