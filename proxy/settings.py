"""One frozen value with every setting: command line over environment over `config/proxy.toml` over the defaults below.

What each setting means is said in `config/proxy.toml`, which shows them all; a test compares the two. The environment is read here and
nowhere else. Every error is found before any is reported, each named by where it was set. (pydantic-settings would merge the same sources,
but reports a fault by the field's name and not by the variable or file that holds it.)
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import PydanticCustomError

T = TypeVar("T", str, SecretStr)

ENVIRONMENT_NAMES: Mapping[str, tuple[str, str]] = {
    "NARRATIVE_API_KEY": ("narrative", "api_key"),
    "NARRATIVE_ENVIRONMENT": ("narrative", "environment"),
    "NARRATIVE_DATA_PLANE_ID": ("narrative", "data_plane_id"),
    "PROXY_HOST": ("server", "host"),
    "PROXY_PORT": ("server", "port"),
    "PROXY_API_KEYS": ("server", "api_keys"),
    "PROXY_SECRET_KEY": ("access", "secret_key"),
    "PROXY_ADMIN_KEY": ("elastic", "admin_key"),
    "ANTHROPIC_BASE_URL": ("anthropic", "base_url"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("tracing", "endpoint"),
}
"""Variables with names of their own; every other setting is `PROXY_<SECTION>__<NAME>`."""

CONFIG_VARIABLE = "PROXY_CONFIG"

# What Kubernetes sets in every pod for a Service called `proxy`, and for one whose name begins so.
_SERVICE_LINK = re.compile(
    r"PROXY_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)\Z"
)
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://")


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID, in any of the usual spellings."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _is_address(text: str, *schemes: str) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in schemes and bool(address.netloc or address.scheme == "unix") and address.port != 0
    except ValueError:
        return False


def _expect(what: str, accepts: Callable[[str], bool]) -> AfterValidator:
    """Refuses other texts with an error that says what was expected."""

    def check(value: T) -> T:
        if not accepts(value.get_secret_value() if isinstance(value, SecretStr) else value):
            raise PydanticCustomError("value", "expected {what}", {"what": what})
        return value

    return AfterValidator(check)


def _is_web_address(text: str) -> bool:
    return _is_address(text, "http", "https")


_comma_separated = BeforeValidator(
    lambda value: [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
)
_Uuid = Annotated[str, _expect("a uuid", is_uuid)]
_WebAddress = Annotated[str, _expect("an address such as https://example.com", _is_web_address)]
_Narrative = Annotated[
    str,
    _expect(
        "prod, dev or an address such as https://example.com",
        lambda text: text in ("prod", "dev") or _is_web_address(text),
    ),
]
_Redis = Annotated[
    SecretStr,
    _expect("an address such as redis://example.com:6379/0", lambda text: _is_address(text, "redis", "rediss", "unix")),
]
_Origin = Annotated[str, _expect("* or origins such as https://example.com", lambda text: text == "*" or "://" in text)]
_Key = Annotated[
    SecretStr,
    _expect("letters, digits and signs that a header can carry", lambda text: text.isascii() and text.isprintable()),
]


class SettingsError(Exception):
    """The settings cannot be used. `faults` lists every one, a line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Section):
    """How clients reach the server, and what it takes from them."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    workers: int = Field(1, ge=1, le=256)
    api_keys: Annotated[tuple[_Key, ...], _comma_separated] = ()
    allow_unauthenticated: Literal["auto", "always", "never"] = "auto"
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    max_body_values: int = Field(100_000, ge=1000)
    cors_origins: Annotated[tuple[_Origin, ...], _comma_separated] = ("*",)
    allowed_hosts: Annotated[tuple[str, ...], _comma_separated] = ()
    keep_alive_s: int = Field(75, ge=1)
    max_connections: int = Field(12_000, ge=1)
    header_timeout_s: float = Field(15.0, gt=0)
    body_timeout_s: float = Field(30.0, gt=0)
    shutdown_grace_s: int = Field(30, ge=0)
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class NarrativeSettings(_Section):
    """The Narrative account that jobs run on, and the calls to its API."""

    api_key: _Key | None = None
    environment: _Narrative = "prod"
    data_plane_id: _Uuid | None = None
    connect_timeout_s: float = Field(5.0, gt=0)
    read_timeout_s: float = Field(30.0, gt=0)
    max_connections: int = Field(100, ge=1)


class WebhookSettings(_Section):
    """Completions of jobs by webhook, besides polling."""

    public_url: _WebAddress | None = None


class JobSettings(_Section):
    """How many jobs run at a time, how their ends are noticed, and for how long a request waits for them."""

    deadline_s: float = Field(600.0, gt=0)
    reads_per_second: float = Field(10.0, gt=0)
    max_in_flight: int = Field(10_000, ge=1)
    place_wait_s: float = Field(5.0, ge=0)
    max_submissions: int = Field(32, ge=1)
    in_doubt: Literal["error", "resubmit"] = "error"


class ChatSettings(_Section):
    """What chat requests may ask for, and how they are answered."""

    models_file: Path | None = None
    default_model: str | None = Field(None, min_length=1)
    max_choices: int = Field(8, ge=1, le=128)
    max_tools: int = Field(512, ge=1)
    heartbeat_s: float = Field(10.0, ge=0)
    heartbeat_style: Literal["comment", "chunk"] = "comment"
    keepalive_json_s: float = Field(0.0, ge=0)
    stream_pace_ms: int = Field(0, ge=0, le=60_000)
    send_timeout_s: float = Field(60.0, gt=0)
    headroom_tokens: int = Field(64, ge=0)
    strict_history: bool = False
    repair_tries: int = Field(1, ge=0, le=3)
    media: Literal["refuse", "placeholder"] = "refuse"
    hosted_tools: Literal["refuse", "drop"] = "refuse"
    paid_failure_status: int = Field(424, ge=400, le=599)
    reasoning_object: Literal["auto", "always", "never"] = "auto"


class MessagesSettings(_Section):
    """The Messages API."""

    hold_s: float = Field(15.0, ge=0)


class ResponsesSettings(_Section):
    """What the Responses API keeps, sealed so that only who knows a response's id, and has the key that made it, can read it."""

    store_ttl_s: float = Field(86_400.0, ge=0)
    max_record_bytes: int = Field(256 * 1024, ge=0)
    max_chain: int = Field(100, ge=1)
    max_chain_bytes: int = Field(8 * 1024 * 1024, ge=1)
    memory_bytes: int = Field(64 * 1024 * 1024, ge=1)
    max_background: int = Field(2_000, ge=0)


class BatchSettings(_Section):
    """Files and batches: what is kept, for how long, and how much of it runs at a time."""

    in_memory: bool = False
    memory_bytes: int = Field(512 * 1024 * 1024, ge=1)
    max_file_bytes: int = Field(20 * 1024 * 1024, ge=1)
    max_lines: int = Field(10_000, ge=1)
    max_key_bytes: int = Field(256 * 1024 * 1024, ge=1)
    max_key_batches: int = Field(100, ge=1)
    file_ttl_s: int = Field(86_400, ge=60)
    max_file_ttl_s: int = Field(604_800, ge=60)
    window_s: float = Field(86_400.0, gt=0)
    max_in_flight: int = Field(50, ge=1)
    max_running: int = Field(10, ge=1)


class ThinkingSettings(_Section):
    """Budgets, in tokens, that `reasoning_effort` asks for. `none` turns thinking off."""

    minimal: int = Field(1024, ge=1024)
    low: int = Field(2048, ge=1024)
    medium: int = Field(4096, ge=1024)
    high: int = Field(8192, ge=1024)
    xhigh: int = Field(16_384, ge=1024)
    max: int = Field(32_768, ge=1024)


class SchemaSettings(_Section):
    """Bounds on what clients' JSON Schemas may be; over the first four is a 400 `invalid_json_schema`."""

    max_bytes: int = Field(1024 * 1024, ge=1)
    max_depth: int = Field(128, ge=1, le=200)
    max_properties: int = Field(5000, ge=1)
    max_alternatives: int = Field(1000, ge=1)
    recursion_depth: int = Field(3, ge=0, le=10)


class TracingSettings(_Section):
    """Traces for OpenTelemetry."""

    endpoint: _WebAddress | None = None
    contents: bool = False


class ConsoleSettings(_Section):
    """The web console."""

    enabled: bool = True


class SandboxSettings(_Section):
    """How long jobs of the sandbox take."""

    pending_s: float = Field(0.1, ge=0)
    running_s: float = Field(0.4, ge=0)


class StateSettings(_Section):
    """What is remembered of requests so that none is paid twice, and where."""

    url: _Redis | None = None
    prefix: str = "narrative-proxy:"
    idempotency_ttl_s: float = Field(86_400.0, gt=0)
    adopt: Literal["equal", "sdk_retry", "off"] = "equal"
    adopt_ttl_s: float = Field(3600.0, gt=0)
    replay_failures_s: float = Field(15.0, ge=0)
    max_answer_bytes: int = Field(1024 * 1024, ge=0)


class AccessSettings(_Section):
    """Keys that the proxy makes, their storage, and the limits of callers."""

    folder: str = "~/.narrative-proxy"
    secret_key: SecretStr | None = None
    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    jobs_in_flight: int = Field(0, ge=0)
    wait_s: float = Field(2.0, ge=0)

    def home(self) -> Path:
        """The folder, with `~` resolved."""
        return Path(self.folder).expanduser()


class ElasticSettings(_Section):
    """The Elastic inference API."""

    admin_key: SecretStr | None = None
    verify_on_create: bool = True


class AnthropicSettings(_Section):
    """Calls to Anthropic's Messages API, for endpoints of that service."""

    base_url: _WebAddress | None = None
    version: str = "2023-06-01"
    connect_timeout_s: float = Field(5.0, gt=0)
    read_timeout_s: float = Field(300.0, gt=0)
    max_retries: int = Field(2, ge=0, le=10)
    default_max_tokens: int = Field(8192, ge=1)


class Settings(_Section):
    """Every setting, by section."""

    server: ServerSettings = ServerSettings()
    narrative: NarrativeSettings = NarrativeSettings()
    jobs: JobSettings = JobSettings()
    chat: ChatSettings = ChatSettings()
    messages: MessagesSettings = MessagesSettings()
    responses: ResponsesSettings = ResponsesSettings()
    batches: BatchSettings = BatchSettings()
    thinking: ThinkingSettings = ThinkingSettings()
    schemas: SchemaSettings = SchemaSettings()
    tracing: TracingSettings = TracingSettings()
    console: ConsoleSettings = ConsoleSettings()
    sandbox: SandboxSettings = SandboxSettings()
    state: StateSettings = StateSettings()
    webhooks: WebhookSettings = WebhookSettings()
    access: AccessSettings = AccessSettings()
    elastic: ElasticSettings = ElasticSettings()
    anthropic: AnthropicSettings = AnthropicSettings()


def config_folder() -> Path:
    """Where the shipped `proxy.toml` and `models.toml` are: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent
    inside = package / "config"
    return inside if inside.is_dir() else package.parent / "config"


_Path = tuple[str, str]
"""(section, name)"""


def load_settings(
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    overrides: Mapping[_Path, object] | None = None,
    warn: Callable[[str], None] = lambda warning: None,
) -> Settings:
    """Merge all sources and validate the result.

    Args:
        environ: environment variables; empty values count as unset.
        config: the file given on the command line; else `PROXY_CONFIG`, else the shipped `proxy.toml`.
        overrides: values from the command line.
        warn: called with a sentence for each variable `PROXY_*` that is no setting: others may have set it.

    Raises:
        SettingsError: something in the file is unknown, or something is unreadable or out of range; all errors at once.
    """
    environ = {name: value for name, value in environ.items() if value.strip()}
    file = config or Path(environ.get(CONFIG_VARIABLE, config_folder() / "proxy.toml"))
    faults: list[str] = []
    tables: dict[str, Any] = {}
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{file}: {error}")
    given = _from_environment(environ, warn)
    given |= {path: (value, f"--{path[1]}") for path, value in (overrides or {}).items()}
    for (section, name), (value, _) in given.items():
        if isinstance(table := tables.setdefault(section, {}), dict):
            table[name] = value
    try:
        settings = Settings.model_validate(tables)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            match fault["type"], fault["loc"]:
                case "extra_forbidden", (str(section),):
                    message = f"{file}: [{section}]: no such section{_did_you_mean(section, Settings.model_fields)}"
                case "extra_forbidden", (str(section), str(name)):
                    message = f"{file}: {section}.{name}: no such setting{_did_you_mean(name, _names(section))}"
                case _, (str(section),):
                    message = f"{file}: {section}: expected a table [{section}]"
                case _, (str(section), str(name), *_):
                    _, source = given.get((section, name), (None, f"{file}: {section}.{name}"))
                    message = f"{source}: {fault['msg']}"
            faults.append(message)
    if faults:
        raise SettingsError(faults)
    return settings


def _from_environment(environ: Mapping[str, str], warn: Callable[[str], None]) -> dict[_Path, tuple[object, str]]:
    """Values, and the variables that hold them."""
    known = {
        f"PROXY_{section}__{name}".upper(): (section, name)
        for section in Settings.model_fields
        for name in _names(section)
    }
    known |= ENVIRONMENT_NAMES
    found: dict[_Path, tuple[object, str]] = {}
    links: list[str] = []
    for variable, value in environ.items():
        if not variable.startswith("PROXY_"):
            if variable in known:
                found[known[variable]] = (value, variable)
        elif _SERVICE_LINK.match(variable) or _LINK_VALUE.match(value):
            links.append(variable)
        elif path := known.get(variable.upper()):
            found[path] = (value, variable)
        elif variable != CONFIG_VARIABLE:
            warn(f"{variable} is no setting and has no effect{_did_you_mean(variable, known, 0.85)}")
    if links:
        warn(
            f"{', '.join(links)}: ignored, as Kubernetes sets these for a Service named `proxy`; "
            "`enableServiceLinks: false` in the pod's spec leaves them out"
        )
    return found


def _names(section: str) -> Collection[str]:
    kind: type[_Section] = Settings.model_fields[section].annotation  # type: ignore[assignment]
    return kind.model_fields.keys()


def _did_you_mean(name: str, known: Iterable[str], likeness: float = 0.7) -> str:
    near = get_close_matches(name, known, n=1, cutoff=likeness)
    return f"; did you mean {near[0]}?" if near else ""
