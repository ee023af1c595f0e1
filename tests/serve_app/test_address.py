"""An address is taken apart once for all who need one, and what is wrong with it is said without any part of it."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.address import AddressFault, parameters, read_address, read_strictly
from serve_app.errors import SetupError
from serve_app.redis.address import read_redis_url, redis_url
from serve_app.users.settings import database_url

Read = Callable[[str], object]
READERS: dict[str, tuple[Read, str, str]] = {
    "redis": (read_redis_url, "redis", "0"),
    "database": (database_url, "postgresql", "name"),
}


def refusal(read: Read, url: str) -> str:
    """Return why `url` is refused; fails when it is not, and when a traceback would show more."""
    with pytest.raises((AddressFault, SetupError)) as caught:
        read(url)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@given(user=st.text(max_size=20), password=st.text(max_size=40))
def test_a_login_that_is_escaped_comes_back_as_it_was(user: str, password: str) -> None:
    address = read_strictly(f"redis://{quote(user, safe='')}:{quote(password, safe='')}@db.example:6380/3")
    assert (address.username, address.password) == (user or None, password)
    assert (address.host, address.port, address.path) == ("db.example", 6380, "/3")


# One address for each way in which a password that is not escaped may end an address.
NOT_ESCAPED = ("a/b", "a@b", "a#b", "a?b", "1/b", "a\x00b", "%ff", "%00")


@pytest.mark.parametrize("kind", READERS)
@given(password=st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "Cc", "Cs"]), min_size=1, max_size=40))
@settings(max_examples=300)
def test_a_password_that_is_not_escaped_is_used_whole_or_refused_in_fixed_words(kind: str, password: str) -> None:
    read, scheme, path = READERS[kind]

    def url(given: str) -> str:
        return f"{scheme}://user:{given}@host:6380/{path}"

    fixed = set()
    for example in NOT_ESCAPED:
        try:
            read(url(example))
        except SetupError as exc:
            fixed.add(str(exc))
    assert len(fixed) >= 4
    try:
        told = str(read(url(password)))
    except SetupError as exc:
        told = str(exc)
    assert told in fixed or told.startswith(("RedisAddress(host='host', port=6380,", "postgresql+asyncpg://user:"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3cret", "does not begin with a scheme"),
        ("redis//s3cret", "does not begin with a scheme"),
        ("redis://u:s3/cret@h", "an @ too many"),
        ("redis://s3/cret@h", "an @ after the host"),
        ("redis://u:12/s3cret@h", "an @ too many"),
        ("redis://u:s3?cret@h", "an @ too many"),
        ("redis://u:s3#cret@h", "a #"),
        ("redis://u:s3@cret@h", "an @ too many"),
        ("redis://u:s3cret@h:99999", "port is not a number from 1 to 65535"),
        ("redis://u:s3cret@h:0", "port is not a number"),
        ("redis://u:s3cret@h:", "port is not a number"),
        ("redis://u:s3cret@h:٣", "port is not a number"),
        ("redis://u:s3cret@h:1:2", "port is not a number"),
        ("redis://u:s3cret", "port is not a number"),
        ("redis://u:s3cret@h,i", "host is no host name"),
        ("redis://u:s3cret@[::1", "host is no host name"),
        ("redis://u:s3cret@[s3cret]", "host is no host name"),
        ("redis://u:s3cret@h..i", "host is no host name"),
        (f"redis://u:s3cret@{'h' * 64}.i", "host is no host name"),
        ("redis://u:s3\ncret@h", "control characters"),
        ("redis://u:s3\udcffcret@h", "not UTF-8"),
        ("redis://u:s3cret%ff@h", "not UTF-8"),
        (f"redis://u:{'s3cret' * 2000}@h", "longer than"),
    ],
)
def test_what_is_wrong_is_said_without_a_part_of_it(url: str, words: str) -> None:
    told = refusal(read_strictly, url)
    assert words in told
    assert "s3" not in told
    assert "cret" not in told


@pytest.mark.parametrize(
    ("url", "place", "bare"),
    [
        ("https://u:p@h:81/a@1/w.h5?k=v", "h:81", "https://h:81/a@1/w.h5?k=v"),
        ("HTTPS://h/a@1/w.h5", "h", "https://h/a@1/w.h5"),
        ("http://u:p@[::1]:81/w.h5", "[::1]:81", "http://[::1]:81/w.h5"),
        ("http://[fe80::1]/a@1", "[fe80::1]", "http://[fe80::1]/a@1"),
    ],
)
def test_a_web_address_may_have_an_at_sign_in_its_path(url: str, place: str, bare: str) -> None:
    address = read_address(url)
    assert address.place == place
    assert address.without_login() == bare


def test_no_representation_shows_the_password() -> None:
    assert "s3cret" not in repr(read_address("redis://u:s3cret@h/0?password=s3cret"))
    assert "s3cret" not in repr(read_redis_url("unix:///run/redis?password=s3cret"))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("foo=s3cret", "the unknown parameter foo"),
        ("s3cret", "an unknown parameter"),
        ("s3cret s3cret=1", "an unknown parameter"),
        ("password=s&s3cret=1", "an unknown parameter"),
        ("db=1&db=2", "db stands twice"),
        ("&db=1", "an unknown parameter"),
    ],
)
def test_a_parameter_that_is_not_known_or_stands_twice_is_refused(query: str, words: str) -> None:
    told = refusal(lambda url: parameters(read_strictly(url), {"db", "password"}), f"redis://h/?{query}")
    assert words in told
    assert "s3cret" not in told


# --- REDIS_URL ---


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h", "begin with redis://, rediss:// or unix://"),
        ("redis://", "names no host"),
        ("redis://:6379/0", "names no host"),
        ("redis://h?foo=bar", "unknown parameter foo"),
        ("redis://h?decode_responses=true", "unknown parameter decode_responses"),
        ("redis://h?socket_timeout=100", "unknown parameter socket_timeout"),
        ("redis://h?username=u", "unknown parameter username"),
        ("redis://h?ssl_cert_reqs=none", "unknown parameter ssl_cert_reqs"),
        ("rediss://h?ssl_cert_reqs=maybe", "none, optional or required"),
        ("rediss://h?ssl_check_hostname=1", "true or false"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "names no file"),
        (f"rediss://h?ssl_ca_certs=/{300 * 'x'}", "names no file"),
        ("redis://h/cache", "is not a number"),
        ("redis://h/-1", "is not a number"),
        ("redis://h/0?db=1", "the database twice"),
        ("unix://h/run/redis", "names no socket"),
        ("unix://", "names no socket"),
        ("unix://u:p@/run/redis?password=q", "the password twice"),
    ],
)
def test_a_redis_that_cannot_be_meant_is_refused(url: str, words: str) -> None:
    told = refusal(read_redis_url, url)
    assert told.startswith("REDIS_URL: ")
    assert words in told
    assert "redis://user:password@host:6379/0" in told


def test_a_redis_address_is_read() -> None:
    read = read_redis_url
    assert (read("redis://h").host, read("redis://h").port, read("redis://h").db) == ("h", 6379, 0)
    found = read("redis://u:p%2F%40w@h:6380/2/")
    assert (found.username, found.password, found.port, found.db, found.tls) == ("u", "p/@w", 6380, 2, None)
    assert read("redis://:p@h?db=7").db == 7
    found = read("unix://u:p@/run/my%20redis?db=1")
    assert (found.socket, found.db, found.username, found.password) == ("/run/my redis", 1, "u", "p")
    assert read("unix:///run/redis?username=u&password=a%26b").password == "a&b"
    tls = read(f"rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_ca_certs={quote(__file__)}").tls
    assert tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": __file__}


def test_no_variable_means_no_redis() -> None:
    assert redis_url({}) is None
    assert redis_url({"REDIS_URL": " \n"}) is None
    assert redis_url({"REDIS_URL": " redis://h \n"}) == "redis://h"


# --- DATABASE_URL ---


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:s3cret@h/x", "begin with postgresql:// or sqlite:///"),
        ("postgresql://u:s3@cret@h/x", "an @ too many"),
        ("postgresql://u:s3cret@h:99999/x", "port is not a number"),
        ("postgresql://u:s3cret@h/x?port=0", "port is not a number"),
        ("postgresql://u:s3cret@h/x?channel_binding=require", "channel_binding is not supported"),
        ("postgresql://u:s3cret@h/x?foo=s3cret", "the unknown parameter foo"),
        ("postgresql://u:s3cret@h/x?sslmode=s3cret", "sslmode must be one of"),
        ("postgresql://u:s3cret@h/x?sslmode=require&ssl=require", "both ssl and sslmode"),
        ("postgresql://u:s3cret@h/x?sslmode=require&sslmode=disable", "sslmode stands twice"),
        ("postgresql://u:s3cret@h/x?host=i", "the host twice"),
        ("postgresql://u:s3cret@h:1/x?port=2", "the port twice"),
        ("postgresql://u:s3cret@/x?host=h,i", "neither one host name nor the folder"),
        ("postgresql://u:s3cret@h,i/x", "host is no host name"),
        ("postgresql://u:%00s3cret@h/x", "no zero byte"),
        ("postgresql://u:s3cret@h..i/x", "host is no host name"),
        (f"postgresql://u:s3cret@{'h' * 64}/x", "host is no host name"),
        ("postgresql://u:s3cret@/x?host=h..i", "neither one host name nor the folder"),
        ("sqlite:////folder/%00", "no zero byte"),
        ("sqlite:///~nobody-of-this-name/x.db", "the name of no user of this machine"),
    ],
)
def test_a_database_that_cannot_be_meant_is_refused(url: str, words: str) -> None:
    told = refusal(database_url, url)
    assert told.startswith("DATABASE_URL: ")
    assert words in told
    assert "postgresql://user:password@host:5432/database" in told
    assert "s3" not in told


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("POSTGRESQL://u@h", "postgresql+asyncpg://u@h"),
        ("postgresql://u@h/x?channel_binding=prefer&sslmode=require", "postgresql+asyncpg://u@h/x?ssl=require"),
        ("postgresql://u:a b+c@h/my%20db", "postgresql+asyncpg://u:a%20b%2Bc@h/my%20db"),
        ("postgresql://u@h.i./x", "postgresql+asyncpg://u@h.i./x"),
        (f"postgresql://u@{'h' * 63}.i/x", f"postgresql+asyncpg://u@{'h' * 63}.i/x"),
        ("postgresql://u@h/x?port=7", "postgresql+asyncpg://u@h:7/x"),
        ("postgresql://u@:7/x?host=/run/a+b", "postgresql+asyncpg://u@/x?host=%2Frun%2Fa%2Bb&port=7"),
        ("postgresql://u@/x?host=/run/a%20b", "postgresql+asyncpg://u@/x?host=%2Frun%2Fa%20b"),
    ],
)
def test_a_database_address_is_written_as_its_driver_reads_it(given: str, read: str) -> None:
    assert database_url(given) == read
    assert database_url(read) == read
