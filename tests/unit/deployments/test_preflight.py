from __future__ import annotations

import hashlib
import socket
import stat
import zipfile
from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from scripts.launch import free_port
from serve_app.deployments import preflight
from serve_app.deployments.preflight import check, read, unknown_keys
from serve_app.errors import ConfigError, ModelError, SharedMemoryError
from serve_app.models import weights
from serve_app.types import Json


def config(**args: Json) -> Json:
    application = {"name": "sightline", "import_path": "serve_app.app:build_app", "args": args}
    return {"http_options": {"host": "127.0.0.1", "port": free_port()}, "applications": [application]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set HOME to a temporary folder, because the check creates ``streams.state_dir`` there."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_good_config_passes() -> None:
    check(config())


def test_a_misspelt_key_is_found_at_any_depth() -> None:
    wrong = {"applications": [{"name": "a", "deployments": [{"name": "Detector", "num_replica": 2}]}]}
    assert unknown_keys(wrong, ServeDeploySchema) == ["applications.deployments.num_replica"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("applications: [{import_path: a:b, deploymnts: []}]", "Serve has no setting applications.deploymnts"),
        ("applications: [{name: a}]", "import_path: Field required"),
        ("applications: [", "is not valid YAML"),
        (
            "applications: [{import_path: a:b, deployments: [{name: Detector, autoscaling_config: "
            "{policy: {policy_function: serve_app.deployments.autoscaling:Target}}}]}]",
            "policy_function cannot be imported",
        ),
        ("just text", "is not a Serve config"),
        ("", "is not a Serve config"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused_with_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says) as refusal:
        read(tmp_path / "config.yaml")
    assert "\n" not in refusal.value.detail


def test_a_port_in_use_is_found() -> None:
    wrong = config()
    taken = socket.create_server(("127.0.0.1", wrong["http_options"]["port"]))
    with taken, pytest.raises(ConfigError, match="is in use"):
        check(wrong)
    check(wrong)


@pytest.mark.parametrize("port", [70_000, -1])
def test_an_impossible_port_is_found(port: int) -> None:
    wrong = config()
    wrong["http_options"]["port"] = port
    with pytest.raises(ConfigError, match=r"http_options\.port"):
        check(wrong)


def test_an_address_that_others_can_reach_requires_keys() -> None:
    open_to_all = config()
    open_to_all["http_options"]["host"] = "0.0.0.0"
    with pytest.raises(ConfigError, match=r"access\.keys_file"):
        check(open_to_all)


def test_a_missing_keys_file_is_found() -> None:
    with pytest.raises(ConfigError, match="/nowhere"):
        check(config(access={"keys_file": "/nowhere/keys.yaml"}))


def test_a_wrong_setting_is_found() -> None:
    with pytest.raises(ConfigError, match=r"detect\.confidence"):
        check(config(detect={"confidence": 7}))


def test_names_of_models_that_clients_could_confuse_are_found() -> None:
    with pytest.raises(ConfigError, match=r"^models: 'plates' and 'Plates' are the same name"):
        check(config(models={name: {"weights": "codes"} for name in ("Plates", "plates")}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"utilization": 0.8},
        {"utilisation": 0},
        {"utilisation": 80},
        {"utilisation": "80%"},
        {"calm": 0.9},
        {"backlog_within_s": 0},
    ],
)
def test_wrong_parameters_of_a_policy_are_found(wrong: Json) -> None:
    bad = config()
    policy = {"policy_function": "serve_app.deployments.autoscaling:TargetUtilisation", "policy_kwargs": wrong}
    bad["applications"][0]["deployments"] = [{"name": "Detector", "autoscaling_config": {"policy": policy}}]
    with pytest.raises(ConfigError, match=r"^Detector: autoscaling_config\.policy: "):
        check(bad)


def test_a_policy_must_have_serves_format() -> None:
    bad = config()
    scaling: Json = {
        "policy": {
            "policy_function": "serve_app.deployments.autoscaling.TargetUtilisation",
            "policy_kwargs": {"calm": 2},
        }
    }
    bad["applications"][0]["deployments"] = [{"name": "Detector", "autoscaling_config": scaling}]
    with pytest.raises(ConfigError, match="policy_kwargs: must satisfy 0 < calm"):
        check(bad)
    scaling["policy"] = "serve_app.deployments.autoscaling:TargetUtilisation"
    with pytest.raises(ConfigError, match="must have the keys policy_function"):
        check(bad)


def test_missing_weights_are_found() -> None:
    with pytest.raises(ModelError, match="there is no"):
        check(config(model={"weights": "/nowhere.onnx"}))


@pytest.mark.parametrize("place", ["model", "models", "user_config"])
def test_a_checkpoint_that_cannot_be_read_is_found_before_ray_starts(place: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")  # an empty dictionary
    bad = {"weights": str(tmp_path / "bad.pt"), "cache_dir": str(tmp_path / "cache")}
    wrong = config(**({"model": bad} if place == "model" else {"models": {"plates": bad}} if place == "models" else {}))
    if place == "user_config":
        wrong["applications"][0]["deployments"] = [{"name": "Detector", "user_config": {"model": bad}}]
    with pytest.raises(ModelError, match=r"^bad\.pt does not contain a YOLO model: export it as ONNX"):
        check(wrong)


def test_published_models_are_fetched_wherever_the_config_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are named in ``model``, in ``models`` and in a Detector's ``user_config``."""
    fetched: list[str] = []

    def fetch(name: str, folder: Path, **_: object) -> Path:
        fetched.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"PK\x03\x04")
        return folder / name

    monkeypatch.setattr(weights, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    sha256 = hashlib.sha256(b"PK\x03\x04").hexdigest()
    named = {name: {"weights": name, "weights_sha256": sha256} for name in ("yolo26n.pt", "yolo11n.pt", "yolo12n.pt")}
    good = config(model=named["yolo26n.pt"], models={"plates": named["yolo11n.pt"], "cars": {"weights": "codes"}})
    good["applications"][0]["deployments"] = [
        {"name": "Detector-cars", "user_config": {"model": named["yolo12n.pt"]}},
    ]
    check(good)
    assert sorted(fetched) == ["yolo11n.pt", "yolo12n.pt", "yolo26n.pt"]


def test_nothing_is_fetched_for_a_config_that_cannot_be_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(*_: object, **__: object) -> Path:
        raise AssertionError("a model was fetched")

    monkeypatch.setattr(weights, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"streams\.output_dir"):
        check(config(model={"weights": "yolo26n.pt"}, streams={"output_dir": "/nowhere"}))


def test_too_little_shared_memory_is_found() -> None:
    wrong = config(preprocessor={"slots": 1024}, model={"image_size_px": 2048})
    wrong["applications"][0]["deployments"] = [{"name": "Preprocessor", "num_replicas": 1000}]
    with pytest.raises(SharedMemoryError, match=r"preprocessor\.slots"):
        check(wrong)


def test_missing_shared_memory_is_reported_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "FOLDER", tmp_path / "none")
    with pytest.raises(SharedMemoryError, match=r"none cannot be used .*: mount a tmpfs there"):
        check(config())


@pytest.mark.parametrize(
    ("user_config", "error", "says"),
    [
        ({"detect": {"confidance": 0.4}}, ConfigError, r"user_config\.detect\.confidance"),
        ({"model": {"weights": "/nowhere.onnx"}}, ModelError, "there is no"),
    ],
)
def test_the_user_config_of_a_detector_is_checked_too(user_config: Json, error: type[Exception], says: str) -> None:
    wrong = config(models={"plates": {"weights": "codes"}})
    wrong["applications"][0]["deployments"] = [{"name": "Detector-plates", "user_config": user_config}]
    with pytest.raises(error, match=says):
        check(wrong)


def test_an_unknown_deployment_is_found() -> None:
    wrong = config()
    wrong["applications"][0]["deployments"] = [{"name": "Detektor"}]
    with pytest.raises(ConfigError, match="deployments: Detektor does not exist: use Detector, DriftMonitor, Ingress"):
        check(wrong)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_every_name_of_this_machine_is_accepted(host: str) -> None:
    local = config()
    local["http_options"]["host"] = host
    check(local)


@pytest.mark.parametrize("host", ["127.0.0.1.invalid", "192.0.2.1"])  # RFC 5737 reserves 192.0.2.1 for documentation
def test_an_address_of_another_machine_is_found(host: str, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("[]")
    elsewhere = config(access={"keys_file": str(tmp_path / "keys.yaml")})
    elsewhere["http_options"]["host"] = host
    with pytest.raises(ConfigError, match=rf"^http_options\.host: {host} is not an address of this machine"):
        check(elsewhere)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("output_dir", "/nowhere"),
        ("output_dir", "/etc/passwd"),
        ("output_dir", "/proc"),
        ("media_dirs", ".:/nowhere"),
        ("media_dirs", "/etc/passwd"),
        ("state_dir", "/proc/nowhere"),
        ("state_dir", "/etc/passwd"),
        ("state_dir", "~nobody-of-this-name/state"),
    ],
)
def test_an_unusable_folder_is_found(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^streams\.{setting}: .*SERVE_APP_{setting.upper()}"):
        check(config(streams={setting: value}))


def test_a_deleted_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match=r"^streams\.media_dirs: the working folder no longer exists"):
        check(config())


def test_the_folder_of_stream_states_is_created(tmp_path: Path) -> None:
    check(config(streams={"state_dir": str(tmp_path / "a/b")}))
    folder = tmp_path / "a/b/sightline"
    assert (stat.S_IMODE(folder.stat().st_mode), list(folder.iterdir())) == (0o700, [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_config_is_read_as_unicode_in_every_locale(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "config.yaml").write_text("applications: [{import_path: a:b, name: Prüfstand}]", encoding=encoding)
    assert read(tmp_path / "config.yaml")["applications"][0]["name"] == "Prüfstand"


def test_a_config_in_another_encoding_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: Prüfstand", encoding="latin-1")
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        read(tmp_path / "config.yaml")


@pytest.mark.parametrize("folder", ["/nowhere", "/etc/passwd", "/proc", "~nobody-of-this-name/kept"])
def test_an_unusable_folder_of_the_collection_is_found(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"^collect\.folder: .*SERVE_APP_COLLECT_FOLDER"):
        check(config(collect={"folder": folder}))
