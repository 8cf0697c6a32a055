"""Cases of machines: unusual paths, locales, permissions, limits, host names and proxies."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.trials.field.case import Case
from scripts.trials.field.startups import Problem, command, limited, refused, serves, within

_NOWHERE = "/proc/nowhere"  # a folder that not even root can create
_PROXY = "http://127.0.0.1:9"  # no server listens on this port
_PROXIES: dict[str, str | None] = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _PROXY),
    "NO_PROXY": None,
    "no_proxy": None,
}
_TEXT = "\n# Prüfstand № 5: 検査\n"
_MISSPELT = "applications: [{import_path: 'a:b', Prüfung: 1}]"
_CONFIG = "http_options: {{host: '{host}'}}\napplications: [{{import_path: 'serve_app.app:build_app'}}]\n"
_ASCII: dict[str, str | None] = {"LC_ALL": "C", "PYTHONUTF8": "0"}
_SHARED_MEMORY = within("mount -t tmpfs -o size=8m x /dev/shm")


def _read_only(folder: str) -> list[str]:
    """Return a command prefix with which a program cannot write to ``folder``, as if another user owned it."""
    return within(f"mkdir -p {folder} && mount -t tmpfs -o ro x {folder}")


def _cases(kind: str, members: dict[str, Problem], *, quick: Sequence[str] = ()) -> list[Case]:
    return [Case(kind, member, problem, is_quick=member in quick) for member, problem in members.items()]


_PATHS = _cases(
    "a checkout below an unusual path",
    {
        "a space": serves(below="my project"),
        "umlauts and an emoji": serves(below="Prüfstand 📷"),
        "# % & ; $": serves(below="a#b%20c&d;$HOME"),
        "brackets and wildcards": serves(below="copy (2) [x] {y} *?"),
        "a colon, a comma, an equals sign": serves(below="a:b,c=d"),
        "250 bytes": serves(below="/".join(["a" * 60] * 4)),
        "an apostrophe": refused("apostrophe", "move", below="o'brien"),
        "an apostrophe and a space": serves(below="it's mine"),
        "quotation marks": serves(below='the "new" one'),
    },
    quick=("an apostrophe",),
)
_LOCALES = _cases(
    "a locale that is not UTF-8",
    {
        "ASCII": serves(config=_TEXT, env=_ASCII),
        "POSIX, without Python's coercion to UTF-8": serves(
            config=_TEXT, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
        ),
        "none": serves(config=_TEXT, LC_ALL=None, LANG=None, LC_CTYPE=None),
        "one that is not installed": serves(config=_TEXT, LC_ALL="xx_XX.ISO-8859-1", PYTHONUTF8="0"),
        "PYTHONIOENCODING=ascii": serves(config=_TEXT, PYTHONIOENCODING="ascii"),
        "a refusal with characters beyond ASCII": refused(
            "no setting applications.Prüfung", config=_MISSPELT, env=_ASCII
        ),
        "the command for streams, in ASCII": command("streams", "list", PYTHONIOENCODING="ascii", env=_ASCII),
    },
    quick=("a refusal with characters beyond ASCII", "the command for streams, in ASCII"),
)
_USERS = _cases(
    "another user's files in shared places",
    {
        "Serve's folder for HAProxy": serves(starter=_read_only("/tmp/haproxy-serve")),
        "Ray's folder": serves(starter=_read_only("/tmp/ray"), TMPDIR=None, RAY_TMPDIR=None),
        "the folder of streams' states": refused(
            "streams.state_dir", "SERVE_APP_STATE_DIR", SERVE_APP_STATE_DIR="/proc"
        ),
        "the folder of streams' events": refused(
            "streams.output_dir", "SERVE_APP_OUTPUT_DIR", SERVE_APP_OUTPUT_DIR="/proc"
        ),
        "shared memory that is full": refused("of shared memory", "are free", starter=_SHARED_MEMORY),
    },
    quick=("the folder of streams' states", "the folder of streams' events"),
)
_FILES = _cases(
    "a hard limit of open files",
    {
        "64": refused("ulimit -Hn", starter=limited(64)),
        "512": refused("ulimit -Hn", starter=limited(512)),
        "1024": serves("HAProxy accepts fewer", starter=limited(1024)),
        "4096": serves("HAProxy accepts fewer", starter=limited(4096)),
        "20000, and a soft one of 256": serves(starter=["prlimit", "--nofile=256:20000"]),
    },
    quick=("64", "512"),
)
_TEMPORARY = _cases(
    "a folder for temporary files",
    {
        "a path of 41 bytes": serves(TMPDIR="{folder}/" + "t" * 24, RAY_TMPDIR=None),
        "a path of 120 bytes": serves("TMPDIR is too long", TMPDIR="{folder}/" + "t" * 103, RAY_TMPDIR=None),
        "a short one with a space": serves(TMPDIR="{folder}/a b", RAY_TMPDIR=None),
        "one that cannot be made": serves(TMPDIR=_NOWHERE, RAY_TMPDIR=None),
        "a RAY_TMPDIR of 60 bytes": refused(
            "RAY_TMPDIR", "too long", RAY_TMPDIR="/tmp/sightline-field-".ljust(60, "t")
        ),
        "a RAY_TMPDIR that cannot be made": refused("RAY_TMPDIR", "cannot be written", RAY_TMPDIR=_NOWHERE),
        "a full disk": refused(
            "RAY_TMPDIR", "MiB free", starter=within("mount -t tmpfs -o size=1m x /mnt"), RAY_TMPDIR="/mnt"
        ),
    },
    quick=("a RAY_TMPDIR of 60 bytes", "a RAY_TMPDIR that cannot be made"),
)
_HOMES = _cases(
    "a home that cannot be written",
    {
        "read-only": serves("Ray's token cannot be kept", starter=_read_only("/mnt"), HOME="/mnt"),
        "not there": serves("Ray's token cannot be kept", HOME=_NOWHERE),
        "read-only, and no other folder for states": refused(
            "streams.state_dir", "SERVE_APP_STATE_DIR", HOME=_NOWHERE, SERVE_APP_STATE_DIR=None
        ),
        "not there, but a file for the token": serves(HOME=_NOWHERE, RAY_AUTH_TOKEN_PATH="{folder}/token"),
        "unset": serves(HOME=None),
    },
    quick=("read-only, and no other folder for states",),
)
_FOLDERS = _cases(
    "a folder or file that is not there",
    {
        "output_dir": refused("streams.output_dir", "does not exist", SERVE_APP_OUTPUT_DIR="/tmp/nowhere/events"),
        "media_dirs": refused("streams.media_dirs", "does not exist", SERVE_APP_MEDIA_DIRS="/tmp/nowhere"),
        "state_dir below a file": refused("streams.state_dir", "be created", SERVE_APP_STATE_DIR="/etc/passwd/x"),
        "keys_file": refused("/tmp/nowhere", "cannot be read", SERVE_APP_KEYS_FILE="/tmp/nowhere"),
        "weights": refused("model.weights", "/tmp/nowhere.onnx", SERVE_APP_WEIGHTS="/tmp/nowhere.onnx"),
        "/dev/shm, read-only": refused("/dev/shm", "mount a tmpfs", starter=within("mount -t tmpfs -o ro x /dev/shm")),
    },
    quick=("output_dir", "media_dirs", "state_dir below a file", "keys_file", "weights"),
)
_NETWORKS = _cases(
    "names, addresses and proxies",
    {
        "a host name that does not resolve": serves(starter=within("hostname no-such-host.invalid")),
        "no /etc/hosts": serves(starter=within("hostname x.invalid && mount --bind /dev/null /etc/hosts")),
        "an address of another machine": refused(
            "http_options.host", "not an address of this machine",
            config=_CONFIG.format(host="192.0.2.1"), SERVE_APP_KEYS_FILE="/dev/null",
        ),
        "proxies for HTTP": serves(env=_PROXIES),
        "a SOCKS proxy for everything": serves(ALL_PROXY="socks5://127.0.0.1:9", NO_PROXY=None, no_proxy=None),
        "the command for streams, behind a proxy": command("streams", "list", env=_PROXIES),
    },
    quick=("an address of another machine", "the command for streams, behind a proxy"),
)  # fmt: skip

CASES: tuple[Case, ...] = (
    *_PATHS, *_LOCALES, *_USERS, *_FILES, *_TEMPORARY, *_HOMES, *_FOLDERS, *_NETWORKS,
)  # fmt: skip
