"""One frozen value with every setting: command line over environment over `config/proxy.toml` over the defaults below.

The environment is read here and nowhere else. Every error is found before any is reported, each named by where it was set.
(pydantic-settings would merge the same sources, but reports a fault by the field's name and not by the variable or file that holds it.)
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from proxy.setting_types import Key, Keys, Names, NarrativeAddress, Origins, RedisAddress, Uuid, WebAddress

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
}
"""Variables with names of their own; every other setting is `PROXY_<SECTION>__<NAME>`."""

CONFIG_VARIABLE = "PROXY_CONFIG"

# What Kubernetes sets in every pod for a Service called `proxy`, and for one whose name begins so.
_SERVICE_LINK = re.compile(
    r"PROXY_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)\Z"
)
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://")


class SettingsError(Exception):
    """The settings cannot be used. `faults` lists every one, a line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Section):
    """How clients reach the server, and what it takes from them."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(1, ge=1, le=256, description="Worker processes.")
    api_keys: Keys = Field(
        (),
        description="Keys that clients present when the proxy uses its own Narrative token (comma-separated in the environment).",
    )
    allow_unauthenticated: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Serve requests without a key. `auto`: with `--sandbox`, and on a loopback address without a Redis, until a first key "
        "is set or made.",
    )
    max_body_bytes: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Largest request body, in bytes, also after decompression; larger ones are a 413.",
    )
    max_body_values: int = Field(
        100_000,
        ge=1000,
        description="Most JSON values in a request body; more are a 400, as checking them would take too long.",
    )
    cors_origins: Origins = Field(("*",), description="Origins that browsers may call from.")
    allowed_hosts: Names = Field(
        (),
        description="Host names, beside those of the machine itself, under which it serves requests without a key (DNS rebinding).",
    )
    keep_alive_s: int = Field(
        75, ge=1, description="Seconds an idle client connection is kept; longer than the load balancer's in front."
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        description="Client connections of each worker, as far as open files allow; beyond it the longest idle one is closed.",
    )
    header_timeout_s: float = Field(
        15.0, gt=0, description="Seconds in which a new connection, or a begun request, must have sent its headers."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, description="Seconds in which a request's body must have come, and one more for each KiB of it."
    )
    shutdown_grace_s: int = Field(
        30, ge=0, description="Seconds that requests in flight are given to finish at shutdown."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines: `console`, `json`, or `auto`: console on a terminal, JSON otherwise."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )


class NarrativeSettings(_Section):
    """The Narrative account that jobs run on, and the calls to its API."""

    api_key: Key | None = Field(
        None,
        description="The proxy's Narrative token. Unset: each client's bearer token is passed through to Narrative.",
    )
    environment: NarrativeAddress = Field("prod", description="`prod`, `dev` or a base URL.")
    data_plane_id: Uuid | None = Field(None, description="Data plane that runs the inference.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Seconds to connect to Narrative.")
    read_timeout_s: float = Field(30.0, gt=0, description="Seconds to wait for an answer to one call.")
    max_connections: int = Field(100, ge=1, description="Connections to Narrative at a time.")


class WebhookSettings(_Section):
    """Completions of jobs by webhook, besides polling."""

    public_url: WebAddress | None = Field(
        None,
        description="Where Narrative reaches this server, `https://…`: it then tells of ended jobs by webhook. Needs `narrative.api_key`.",
    )


class JobSettings(_Section):
    """How many jobs run at a time, how their ends are noticed, and for how long a request waits for them."""

    deadline_s: float = Field(600.0, gt=0, description="Seconds a request may take overall; then 504 `job_timeout`.")
    reads_per_second: float = Field(
        10.0,
        gt=0,
        description="Upstream reads a second, for each Narrative token, of all replicas together, to notice the end of jobs.",
    )
    max_in_flight: int = Field(10_000, ge=1, description="Jobs in flight at a time; further requests wait in a queue.")
    place_wait_s: float = Field(5.0, ge=0, description="Seconds a request waits in the queue; then 503.")
    max_submissions: int = Field(32, ge=1, description="Submissions on their way to Narrative at a time.")
    in_doubt: Literal["error", "resubmit"] = Field(
        "error",
        description="When nobody can tell whether a submission was taken: say so, or submit again and perhaps pay twice.",
    )


class ChatSettings(_Section):
    """What chat requests may ask for, and how they are answered."""

    models_file: Path | None = Field(None, description="The model table; unset: `models.toml` beside this file.")
    default_model: str | None = Field(
        None, min_length=1, description="Model that serves unknown model names; unset: they are a 404."
    )
    max_choices: int = Field(8, ge=1, le=128, description="Largest `n`: each choice is a job of its own.")
    max_tools: int = Field(512, ge=1, description="Most tools in one request.")
    heartbeat_s: float = Field(10.0, ge=0, description="Seconds between heartbeats of a waiting stream; 0 is off.")
    heartbeat_style: Literal["comment", "chunk"] = Field(
        "comment",
        description="Heartbeats as SSE comments, or as chunks with an empty delta for watchdogs that count only data.",
    )
    keepalive_json_s: float = Field(
        0.0,
        ge=0,
        description="Seconds between blanks ahead of a plain answer that takes longer; 0 is off. A failure after the first is an error "
        "object in a 200.",
    )
    stream_pace_ms: int = Field(
        0,
        ge=0,
        le=60_000,
        description="Milliseconds over which an answer's stream is spread at most, for chat UIs that show it as typed; 0 sends it at once.",
    )
    send_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Seconds without progress after which the connection of a client that does not read is closed.",
    )
    headroom_tokens: int = Field(
        64, ge=0, description="Tokens added to a request's limit for the JSON around the reply."
    )
    strict_history: bool = Field(False, description="Refuse histories that would otherwise be repaired.")
    repair_tries: int = Field(
        1, ge=0, le=3, description="Further jobs when the output does not match what was asked for."
    )
    media: Literal["refuse", "placeholder"] = Field(
        "refuse",
        description="Images, audio and files in earlier turns and tool results: a 400, or a visible placeholder.",
    )
    hosted_tools: Literal["refuse", "drop"] = Field(
        "refuse", description="Tools that OpenAI runs by itself, such as `web_search`: a 400, or left out and reported."
    )
    paid_failure_status: int = Field(
        424,
        ge=400,
        le=599,
        description="Status of failures that were paid for; clients retry 408, 409, 429 and every 5xx by themselves, and pay again.",
    )
    reasoning_object: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Heroku's `reasoning` object beside `reasoning_content`: `auto` for callers of `extended_thinking`.",
    )


class ThinkingSettings(_Section):
    """Budgets, in tokens, that `reasoning_effort` asks for. `none` turns thinking off."""

    minimal: int = Field(1024, ge=1024, description="`reasoning_effort: minimal`, in tokens.")
    low: int = Field(2048, ge=1024, description="`reasoning_effort: low`, in tokens.")
    medium: int = Field(
        4096, ge=1024, description="`reasoning_effort: medium`, in tokens; also `extended_thinking` without a budget."
    )
    high: int = Field(8192, ge=1024, description="`reasoning_effort: high`, in tokens.")
    xhigh: int = Field(16384, ge=1024, description="`reasoning_effort: xhigh`, in tokens.")
    max: int = Field(32768, ge=1024, description="`reasoning_effort: max`, in tokens.")


class SchemaSettings(_Section):
    """Bounds on what clients' JSON Schemas may be; over the first four is a 400 `invalid_json_schema`."""

    max_bytes: int = Field(1_048_576, ge=1, description="Largest schema, as compact JSON.")
    max_depth: int = Field(128, ge=1, le=200, description="Most levels of nesting in a schema.")
    max_properties: int = Field(5_000, ge=1, description="Most properties declared in one schema.")
    max_alternatives: int = Field(1_000, ge=1, description="Most members of one `anyOf`, `oneOf` or `allOf`.")
    recursion_depth: int = Field(
        3, ge=0, le=10, description="Levels of a recursive schema that are written out before it is opened."
    )


class ConsoleSettings(_Section):
    """The web console."""

    enabled: bool = Field(True, description="Serve the console's pages at `/console`.")


class SandboxSettings(_Section):
    """How long jobs of the sandbox take."""

    pending_s: float = Field(0.1, ge=0, description="Seconds a sandbox job is pending.")
    running_s: float = Field(0.4, ge=0, description="Seconds a sandbox job runs.")


class StateSettings(_Section):
    """What is remembered of requests so that none is paid twice, and where."""

    url: RedisAddress | None = Field(
        None,
        description="Redis 7 or Valkey that several replicas or workers share, `redis://…`; unset: memory, each process for itself.",
    )
    prefix: str = Field("narrative-proxy:", description="Start of every name in Redis.")
    idempotency_ttl_s: float = Field(86_400.0, gt=0, description="Seconds an `Idempotency-Key` is remembered.")
    adopt: Literal["equal", "sdk_retry", "off"] = Field(
        "equal",
        description="Requests without a key that take up the jobs of an undelivered answer: every equal one of the same caller, "
        "those that an SDK marks as its retry (`x-stainless-retry-count`), or none.",
    )
    adopt_ttl_s: float = Field(
        3_600.0, gt=0, description="Seconds for which the jobs of an undelivered answer can be taken up."
    )
    replay_failures_s: float = Field(
        15.0,
        ge=0,
        description="Seconds for which an equal request gets the failure of a paid job again, without another job; 0 is off.",
    )
    max_answer_bytes: int = Field(
        1024 * 1024,
        ge=0,
        description="Largest answer kept with its `Idempotency-Key`, in bytes; beyond it the job is read again.",
    )


class AccessSettings(_Section):
    """Keys that the proxy makes, their storage, and the limits of callers."""

    folder: str = Field(
        "~/.narrative-proxy",
        description="Folder of the database with keys and named endpoints (unless a Redis holds them) and of the generated secret key.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Encrypts stored credentials; any long random text. Unset: made at the first use and kept in the folder.",
    )
    requests_per_minute: int = Field(
        0, ge=0, description="Requests a minute of each caller whose key names no limit; 0 is no limit."
    )
    tokens_per_minute: int = Field(
        0, ge=0, description="Tokens a minute of each caller whose key names no limit; 0 is no limit."
    )
    jobs_in_flight: int = Field(
        0, ge=0, description="Jobs in flight of each caller whose key names no limit; 0 is no limit."
    )
    wait_s: float = Field(
        2.0,
        ge=0,
        description="Seconds a request may wait for its limits to allow it, if they will so soon; else 429.",
    )

    def home(self) -> Path:
        """The folder, with `~` resolved."""
        return Path(self.folder).expanduser()


class ElasticSettings(_Section):
    """The Elastic inference API."""

    admin_key: SecretStr | None = Field(
        None,
        description="Key that creates and deletes named endpoints. Unset: any client may on a loopback address, none on others.",
    )
    verify_on_create: bool = Field(
        True, description="Try a new endpoint's credentials with a small call before it is stored."
    )


class AnthropicSettings(_Section):
    """Calls to Anthropic's Messages API, for endpoints of that service."""

    base_url: WebAddress | None = Field(None, description="Base URL of the Messages API; unset: Anthropic's own.")
    version: str = Field(
        "2023-06-01",
        description="Version of the Messages API (`anthropic-version`); this one has temperature and top_k.",
    )
    connect_timeout_s: float = Field(5.0, gt=0, description="Seconds to connect to Anthropic.")
    read_timeout_s: float = Field(300.0, gt=0, description="Seconds of silence after which an answer is given up.")
    max_retries: int = Field(2, ge=0, le=10, description="Repeats of a request that was not accepted.")
    default_max_tokens: int = Field(8192, ge=1, description="Reply limit where neither request nor endpoint names one.")


class Settings(_Section):
    """Every setting, by section. `config/proxy.toml` shows them all at their defaults."""

    server: ServerSettings = ServerSettings()
    narrative: NarrativeSettings = NarrativeSettings()
    jobs: JobSettings = JobSettings()
    chat: ChatSettings = ChatSettings()
    thinking: ThinkingSettings = ThinkingSettings()
    schemas: SchemaSettings = SchemaSettings()
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


Path_ = tuple[str, str]
_Found = dict[Path_, tuple[object, str]]


def load_settings(
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    overrides: Mapping[Path_, object] | None = None,
    warn: Callable[[str], None] = lambda warning: None,
) -> Settings:
    """Merge all sources and validate the result.

    Args:
        environ: environment variables; empty values count as unset.
        config: the file given on the command line; else `PROXY_CONFIG`, else the shipped `proxy.toml`.
        overrides: (section, name) → value, from the command line.
        warn: called with a sentence for each variable `PROXY_*` that is no setting: others may have set it.

    Raises:
        SettingsError: something in the file is unknown, or something is unreadable or out of range; all errors at once.
    """
    environ = {name: value for name, value in environ.items() if value.strip()}
    file = config or (Path(environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in environ else config_folder() / "proxy.toml")
    faults: list[str] = []
    values: dict[Path_, object] = {}
    origins: dict[Path_, str] = {}
    sources = [
        _from_file(file, faults),
        _from_environment(environ, warn),
        {path: (value, f"--{path[1]}") for path, value in (overrides or {}).items()},
    ]
    for source in sources:
        for path, (value, origin) in source.items():
            values[path], origins[path] = value, origin
    nested: dict[str, dict[str, object]] = {}
    for (section, name), value in values.items():
        nested.setdefault(section, {})[name] = value
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            section, name = (str(part) for part in fault["loc"][:2])
            faults.append(f"{origins[section, name]}: {fault['msg']}")
    if faults:
        raise SettingsError(faults)
    return settings


def _from_file(file: Path, faults: list[str]) -> _Found:
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{file}: {error}")
        return {}
    found: _Found = {}
    for section, table in tables.items():
        if section not in Settings.model_fields:
            faults.append(f"{file}: [{section}]: no such section{_did_you_mean(section, Settings.model_fields)}")
        elif not isinstance(table, dict):
            faults.append(f"{file}: {section}: expected a table [{section}]")
        else:
            for name, value in table.items():
                if name in _names(section):
                    found[section, name] = (value, f"{file}: {section}.{name}")
                else:
                    faults.append(f"{file}: {section}.{name}: no such setting{_did_you_mean(name, _names(section))}")
    return found


def _from_environment(environ: Mapping[str, str], warn: Callable[[str], None]) -> _Found:
    known = {
        f"PROXY_{section}__{name}".upper(): (section, name)
        for section in Settings.model_fields
        for name in _names(section)
    }
    known |= ENVIRONMENT_NAMES
    found: _Found = {}
    links: list[str] = []
    for variable, value in environ.items():
        if variable.startswith("PROXY_") and (_SERVICE_LINK.match(variable) or _LINK_VALUE.match(value)):
            links.append(variable)
        elif path := known.get(variable.upper() if variable.startswith("PROXY_") else variable):
            found[path] = (value, variable)
        elif variable.startswith("PROXY_") and variable != CONFIG_VARIABLE:
            warn(f"{variable} is no setting and has no effect{_did_you_mean(variable, known, 0.85)}")
    if links:
        warn(
            f"{', '.join(links)}: ignored, as Kubernetes sets these for a Service named `proxy`; "
            "`enableServiceLinks: false` in the pod's spec leaves them out"
        )
    return found


def _names(section: str) -> Collection[str]:
    kind: type[BaseModel] = Settings.model_fields[section].annotation  # type: ignore[assignment]
    return kind.model_fields.keys()


def _did_you_mean(name: str, known: Iterable[str], likeness: float = 0.7) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=likeness)
    return f"; did you mean {near[0]}?" if near else ""
